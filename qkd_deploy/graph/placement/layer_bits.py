"""Which layers are the first and the last, and how many bits each layer gets."""

from __future__ import annotations

from collections.abc import Mapping, Set

from torch import nn

from qkd_deploy.bits import BitWidths, bits_for
from qkd_deploy.errors import UserError, closest
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops.float_ops import is_kept_layer
from qkd_deploy.graph.passes.batch_norms_as_depthwise import BITS, is_channel_identity
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.graph.trace.derived_modules import LAYERS

_LISTED = 6
"""Modules that a sentence names."""


def layer_bits(model: nn.Module, graph: Graph, settings: QuantizationSettings) -> dict[str, BitWidths]:
    """Choose bits for every layer, by its node's name.

    Overrides win; then the first and last layers' bits; then the network's. Batch norms alone have bits of their own.

    Modules with weights that stay in float because the user names them count among the first and the last.

    Raises:
        UserError: a network without layers, or an override that matches none.
    """
    nodes = [node for node in graph.nodes if node.is_layer]
    norms = {node.name for node in nodes if is_channel_identity(model.get_submodule(str(node.target)))}
    layers = [node for node in nodes if node.name not in norms]
    if not layers:
        patterns = [pattern for pattern, bits in settings.overrides.items() if bits.is_float]
        where = f" outside the modules that stay in float; narrow the pattern {patterns[-1]!r}" if patterns else ""
        raise UserError(f"the network has no convolution or linear layer to quantize{where}")
    names = {node.name: layer_names(model, node) for node in layers}
    _require_matches(settings, [path for found in names.values() for path in found], model)
    floats = {node.name for node in graph.nodes if is_kept_layer(node, model)}
    edges = _first_layers(graph, norms, floats) | last_layers(graph, norms, floats)
    chosen = {node.name: _bits_of(names[node.name], settings, at_edge=node.name in edges) for node in layers}
    return _of_shared_weights(layers, chosen) | dict.fromkeys(norms, BITS)


def float_modules(model: nn.Module, overrides: Mapping[str, BitWidths]) -> set[str]:
    """Find the modules that overrides keep in float, whole: in which no other override asks for bits.

    Raises:
        UserError: a pattern matches no module.
    """
    paths = [path for path, _ in model.named_modules() if path]
    for pattern, bits in overrides.items():
        if bits.is_float and not any(bits_for(path, {pattern: bits}) for path in paths):
            raise UserError(f"the pattern {pattern!r} matches no module of the network; {_nearest(pattern, paths)}")
    chosen = {path: bits_for(path, overrides) for path in paths}
    in_bits = [path for path, bits in chosen.items() if bits is not None and not bits.is_float]
    floats = {path for path, bits in chosen.items() if bits is not None and bits.is_float}
    return {path for path in floats if not any(other.startswith(f"{path}.") for other in in_bits)}


def _nearest(pattern: str, paths: list[str]) -> str:
    return closest(pattern, paths, cutoff=0.3, otherwise=f"its modules are {', '.join(paths[:_LISTED])}, ...")


def _require_matches(settings: QuantizationSettings, paths: list[str], model: nn.Module) -> None:
    """Refuse overrides that match no layer; ``float_modules`` has looked at those that keep modules in float."""
    for pattern, bits in settings.overrides.items():
        if bits.is_float or any(bits_for(path, {pattern: bits}) for path in paths):
            continue
        kept = float_modules(model, settings.overrides)
        inside = next((path for path, _ in model.named_modules() if bits_for(path, {pattern: bits})), None)
        if inside in kept:
            raise UserError(f"{inside} stays in float, so that {pattern!r} gives no layer bits; leave one of both out")
        raise UserError(f"the pattern {pattern!r} matches no layer of the network; {_nearest(pattern, paths)}")


def layer_names(model: nn.Module, node: Node) -> tuple[str, ...]:
    """The paths that overrides may call a layer by: its own, and that of the user's layer whose weights it computes."""
    target, owner = str(node.target), model.get_submodule(node.module)
    return (target,) if target == node.module or not isinstance(owner, LAYERS) else (target, node.module)


def _bits_of(names: tuple[str, ...], settings: QuantizationSettings, *, at_edge: bool) -> BitWidths:
    for override in (bits_for(name, settings.overrides) for name in names):
        if override is not None and not override.is_float:
            return override
    if not at_edge:
        return settings.bits
    wide = settings.first_last_bits
    return BitWidths(wide, settings.bits.activation if settings.bits.weights_only else wide)


def _of_shared_weights(layers: list[Node], chosen: dict[str, BitWidths]) -> dict[str, BitWidths]:
    """A layer that is called twice has one set of weights: the widest of its places decides."""
    widest: dict[str, int] = {}
    for node in layers:
        widest[str(node.target)] = max(widest.get(str(node.target), 0), chosen[node.name].weight)
    return {node.name: BitWidths(widest[str(node.target)], chosen[node.name].activation) for node in layers}


def _first_layers(graph: Graph, norms: set[str], floats: Set[str]) -> set[str]:
    """Layers with no other layer, and none of ``floats``, between them and an input; ``norms`` do not count."""
    first: set[str] = set()
    behind: set[str] = set()  # layers, and what reads them
    for node in graph.nodes:
        if node.name in floats or not behind.isdisjoint(node.inputs):
            behind.add(node.name)
        elif node.is_layer and node.name not in norms:
            behind.add(node.name)
            first.add(node.name)
    return first


def last_layers(graph: Graph, norms: Set[str] = frozenset(), floats: Set[str] = frozenset()) -> set[str]:
    """Layers with no other layer, and none of ``floats``, between them and an output; ``norms`` do not count."""
    last: set[str] = set()
    reach = set(graph.outputs())
    for node in reversed(graph.nodes):
        if node.name in reach:
            if node.name in floats:
                continue
            if node.is_layer and node.name not in norms:
                last.add(node.name)
            else:
                reach.update(node.inputs)
    return last

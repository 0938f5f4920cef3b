"""Which layers are the first and the last, and how many bits each layer gets."""

from __future__ import annotations

from torch import nn

from qkd_deploy.bits import BitWidths, bits_for
from qkd_deploy.errors import UserError, closest
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.passes.batch_norms_as_depthwise import BITS, is_channel_identity
from qkd_deploy.graph.placement.settings import QuantizationSettings


def layer_bits(model: nn.Module, graph: Graph, settings: QuantizationSettings) -> dict[str, BitWidths]:
    """Choose bits for every layer, by its node's name.

    Overrides win; then the first and last layers' bits; then the network's. Batch norms alone have bits of their own.

    Raises:
        UserError: a network without layers, or an override that matches none.
    """
    nodes = [node for node in graph.nodes if node.is_layer]
    norms = {node.name for node in nodes if is_channel_identity(model.get_submodule(str(node.target)))}
    layers = [node for node in nodes if node.name not in norms]
    if not layers:
        raise UserError("the network has no convolution or linear layer to quantize")
    _require_matches(settings, [str(node.target) for node in layers])
    edges = _first_layers(graph, norms) | last_layers(graph, norms)
    chosen = {node.name: _bits_of(node, settings, at_edge=node.name in edges) for node in layers}
    return _of_shared_weights(layers, chosen) | dict.fromkeys(norms, BITS)


def _require_matches(settings: QuantizationSettings, paths: list[str]) -> None:
    """Refuse overrides that match no layer."""
    for pattern in settings.overrides:
        if not any(bits_for(path, {pattern: settings.bits}) for path in paths):
            hint = closest(pattern, paths, cutoff=0.3)
            raise UserError(f"the pattern {pattern!r} matches no layer of the network; {hint}".removesuffix("; "))


def _bits_of(node: Node, settings: QuantizationSettings, *, at_edge: bool) -> BitWidths:
    override = bits_for(str(node.target), settings.overrides)
    if override is not None or not at_edge:
        return override or settings.bits
    wide = settings.first_last_bits
    return BitWidths(wide, settings.bits.activation if settings.bits.weights_only else wide)


def _of_shared_weights(layers: list[Node], chosen: dict[str, BitWidths]) -> dict[str, BitWidths]:
    """A layer that is called twice has one set of weights: the widest of its places decides."""
    widest: dict[str, int] = {}
    for node in layers:
        widest[str(node.target)] = max(widest.get(str(node.target), 0), chosen[node.name].weight)
    return {node.name: BitWidths(widest[str(node.target)], chosen[node.name].activation) for node in layers}


def _first_layers(graph: Graph, norms: set[str]) -> set[str]:
    """Layers with no other layer between them and an input; ``norms`` do not count."""
    first: set[str] = set()
    behind: set[str] = set()  # layers, and what reads them
    for node in graph.nodes:
        if not behind.isdisjoint(node.inputs):
            behind.add(node.name)
        elif node.is_layer and node.name not in norms:
            behind.add(node.name)
            first.add(node.name)
    return first


def last_layers(graph: Graph, norms: set[str] | frozenset[str] = frozenset()) -> set[str]:
    """Layers with no other layer between them and an output; ``norms`` do not count."""
    last: set[str] = set()
    reach = set(graph.outputs())
    for node in reversed(graph.nodes):
        if node.name in reach:
            if node.is_layer and node.name not in norms:
                last.add(node.name)
            else:
                reach.update(node.inputs)
    return last

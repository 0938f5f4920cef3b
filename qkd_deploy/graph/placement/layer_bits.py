"""Which layers are the first and the last, and how many bits each layer gets."""

from __future__ import annotations

from torch import nn

from qkd_deploy.bits import BitWidths, bits_for
from qkd_deploy.errors import UserError, closest
from qkd_deploy.graph.ir import Graph
from qkd_deploy.graph.passes.batch_norms_as_depthwise import BITS, is_channel_identity
from qkd_deploy.graph.placement.settings import QuantizationSettings


def layer_bits(model: nn.Module, graph: Graph, settings: QuantizationSettings) -> dict[str, BitWidths]:
    """Overrides win; then the first and last layers' bits; then the network's. Batch norms alone have their own."""
    nodes = [node for node in graph.nodes if node.is_layer]
    norms = {n.name for n in nodes if is_channel_identity(model.get_submodule(str(n.target)))}
    layers = [node for node in nodes if node.name not in norms]
    if not layers:
        raise UserError("the network has no convolution or linear layer to quantize")
    for pattern in settings.overrides:
        if not any(bits_for(str(node.target), {pattern: settings.bits}) for node in layers):
            hint = closest(pattern, [str(node.target) for node in layers], cutoff=0.3)
            raise UserError(f"the pattern {pattern!r} matches no layer of the network; {hint}".removesuffix("; "))
    wide = settings.first_last_bits
    edge_bits = BitWidths(wide, settings.bits.activation if settings.bits.weights_only else wide)
    edges = _first_layers(graph, norms) | last_layers(graph, norms)
    chosen = {
        node.name: bits_for(str(node.target), settings.overrides)
        or (edge_bits if node.name in edges else settings.bits)
        for node in layers
    }
    for node in layers:  # a layer that is called twice has one set of weights: the widest of its places decides
        calls = [chosen[other.name].weight for other in layers if other.target == node.target]
        chosen[node.name] = BitWidths(max(calls), chosen[node.name].activation)
    return chosen | dict.fromkeys(norms, BITS)


def _first_layers(graph: Graph, norms: set[str]) -> set[str]:
    """Layers with no other layer between them and an input; ``norms`` do not count."""
    first: set[str] = set()
    behind: dict[str, bool] = {}  # whether a layer is or stands before a node
    layers = {node.name for node in graph.nodes if node.is_layer} - norms
    for node in graph.nodes:
        behind[node.name] = any(behind[name] or name in layers for name in node.inputs)
        if node.name in layers and not behind[node.name]:
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

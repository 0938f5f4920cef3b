"""Gains and offsets of layer norms move into the linear layers behind them.

    W (g * x + o) + b  =  (W * g) x + (b + W o)

as when a batch norm is folded; it saves a pass over every token for each. An offset in the bias costs nothing. A gain
makes the columns of a weight as uneven as its input was, and rounding noise goes where the unevenness is: so it moves
only into weights of no fewer bits than their input. RepQ-ViT (https://arxiv.org/abs/2212.08254) moves it at 4 bits
each. The parameters stay where the user put them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from torch import nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.passes.context import PassContext


def fold_layer_norms(context: PassContext) -> None:
    """Fold every layer norm that nothing but linear layers reads, each with weights of its own."""
    graph = context.graph
    bits = context.layer_bits(context.model, graph)
    takers = _takers(context)
    for norm in graph.nodes:
        if norm.kind == "layer_norm" and _has_own_parameters(graph, norm):
            readers = _readers(graph, norm)
            if readers and takers.issuperset(readers):
                _fold(graph, norm, readers, bits)
    graph.remove_unread("constant")


def _takers(context: PassContext) -> set[Node]:
    """The linear layers with a parameter for their weight that are called once, but for the last ones.

    What the last layers read is a feature, with which other networks' features are compared.
    """
    graph, last = context.graph, context.last_layers(context.graph)
    calls = Counter(node.target for node in graph.nodes if node.is_layer)
    linears = [node for node in graph.nodes if node.kind == "linear" and calls[node.target] == 1]
    return {node for node in linears if node.name not in last and _has_own_weight(context.model, node)}


def _has_own_weight(model: nn.Module, node: Node) -> bool:
    layer = model.get_submodule(str(node.target))
    return isinstance(layer._parameters.get("weight"), nn.Parameter)


def _has_own_parameters(graph: Graph, norm: Node) -> bool:
    """True where a layer norm has a gain or an offset, and what it has are parameters, not computed from several."""
    kinds = {graph.node(ref.name).kind for ref in norm.args[1:] if ref is not None}
    return kinds == {"constant"}


def _fold(graph: Graph, norm: Node, readers: list[Node], bits: Mapping[str, BitWidths]) -> None:
    operand, gain, offset = norm.args
    keeps_gain = any(bits[reader.name].weight < bits[reader.name].activation for reader in readers)
    for reader in readers:
        reader.gain = None if keeps_gain else _path(graph, gain)
        reader.offset = _path(graph, offset)
    norm.args = (operand, gain if keeps_gain else None, None)


def _path(graph: Graph, parameter: Ref | None) -> str | None:
    return None if parameter is None else str(graph.node(parameter.name).target)


def _readers(graph: Graph, norm: Node) -> list[Node]:
    """The nodes that compute with the rows of a norm, wherever these move before; [] where the network returns it."""
    found: list[Node] = []
    moved = [norm]
    while moved:
        node = moved.pop()
        if node.name in graph.outputs():
            return []
        for reader in graph.users(node.name):
            keeps_rows = _KEEP_ROWS.get(reader.kind, _never)
            (moved if keeps_rows(node, reader) else found).append(reader)
    return [reader for reader in found if reader.kind != "scalar"]


def _never(node: Node, reader: Node) -> bool:
    return False


def _slices_no_columns(node: Node, reader: Node) -> bool:
    last = len(node.sizes) - 1
    return all(dim != last for dim, *_ in reader.kwargs["ranges"])


def _leaves_the_last_dimension(node: Node, reader: Node) -> bool:
    return bool(reader.kwargs["dims"][-1] == len(node.sizes) - 1)


def _reshapes_whole_rows(node: Node, reader: Node) -> bool:
    return reader.sizes[-1:] == node.sizes[-1:]


_KEEP_ROWS: dict[str, Callable[[Node, Node], bool]] = {
    "slice": _slices_no_columns,
    "transpose": _leaves_the_last_dimension,
    "reshape": _reshapes_whole_rows,
}
"""Kinds that may move the rows of a tensor without touching what is in them, and whether a node does."""

"""Slices move in front of what is computed for every row alike, so that no row is computed that nobody reads.

A vision transformer's head reads one token. Behind the keys and values of its last block, all others are dead: their
queries, attention, linear layers and norms cost a tenth of the network's time and change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from qkd_deploy.graph.ir import Graph, Node, Ref, substitute

_DROPOUTS = (F.dropout, torch.dropout)
_ELEMENTWISE = ("add", "mul", "concat")
_OF_ONE = ("sigmoid", "tanh", "hard_sigmoid", "table", "clip", "rescale", "leaky_relu", "dropout")
_OF_ROWS = ("conv", "linear", "layer_norm", "softmax")


def hoist_slices(model: nn.Module, graph: Graph) -> None:
    """Move every slice of one dimension, unless it is the batch, as far forward as what it slices allows."""
    waiting = [node for node in graph.nodes if node.kind == "slice"]
    while waiting:
        node = waiting.pop()  # the last first: what it becomes may equal one in front
        if node in graph.nodes:
            waiting += _merged(graph, node) or _advanced(model, graph, node)
    read = {name for node in graph.nodes for name in node.inputs} | {*graph.outputs()}
    graph.nodes[:] = [node for node in graph.nodes if node.kind != "python" or node.name in read]


def _merged(graph: Graph, node: Node) -> list[Node]:
    """Let an equal slice of the same tensor stand for this one, or this one for it; returns the one that is left."""
    for other in graph.nodes:
        if other is not node and (other.kind, other.args, other.kwargs) == (node.kind, node.args, node.kwargs):
            first, second = sorted((node, other), key=graph.nodes.index)
            _remove(graph, second, first.name)
            return [first]
    return []


def _advanced(model: nn.Module, graph: Graph, node: Node) -> list[Node]:
    """Slice the operands instead of the result, where this slice is all that anybody reads of it; returns theirs."""
    if len(node.kwargs["ranges"]) != 1 or node.shape is None:
        return []
    source = graph.node(node.inputs[0])
    ((dim, *bounds),) = node.kwargs["ranges"]
    readers = sum(source.name in other.inputs for other in graph.nodes)
    if source.name in graph.outputs() or readers != 1 or dim in source.batch_dims:
        return []
    dims = _operand_dims(model, graph, source, dim)
    if not dims:
        return []
    made = {name: _sliced(graph, source, name, (own, *bounds)) for name, own in dims.items()}
    stand_ins = {name: Ref(part.name) for name, part in made.items()}
    source.args, source.kwargs = substitute((source.args, source.kwargs), lambda ref: stand_ins.get(ref.name, ref))
    source.shape, source.partial = node.shape, True
    if source.kind == "reshape":
        source.target, source.method, source.kwargs = torch.reshape, False, {}
        source.args = (source.args[0], source.open_shape)
    _remove(graph, node, source.name)
    return [*made.values()]


def _sliced(graph: Graph, reader: Node, name: str, bounds: tuple[int, ...]) -> Node:
    operand = graph.node(name)
    shape = list(operand.shape or ())
    shape[bounds[0]] = len(range(shape[bounds[0]])[slice(*bounds[1:])])
    made = Node(
        f"{name}_for_{reader.name}", "slice", (Ref(name),), {"ranges": (bounds,)}, f"{operand.label}.part",
        reader.module, shape=tuple(shape), batch_dims=operand.batch_dims, dtype=operand.dtype,
    )  # fmt: skip
    graph.nodes.insert(graph.nodes.index(reader), made)
    return made


def _remove(graph: Graph, node: Node, stand_in: str) -> None:
    graph.nodes.remove(node)
    graph.replace(node.name, stand_in)


# -- which dimension of which operand ----------------------------------------------------------------------------------

_Dims = dict[str, int]


def _operand_dims(model: nn.Module, graph: Graph, node: Node, dim: int) -> _Dims:
    """What to slice, by the names of operands, to slice dimension ``dim`` of the result; {} where that cannot be."""
    operands = [graph.node(name) for name in node.inputs]
    rank, first = len(node.shape or ()), operands[0] if operands else node
    if node.kind in _ELEMENTWISE:
        return {} if dim == node.kwargs.get("dim") else _broadcast(operands, rank, dim)
    if node.kind in _OF_ONE and _acts_on_elements(model, node):
        return {first.name: dim}
    if node.kind in _OF_ROWS and dim != rank - 1 and _acts_on_rows(model, node):
        return {first.name: dim}
    special: dict[str, Callable[[], _Dims]] = {
        "matmul": lambda: _product(operands, rank, dim),
        "transpose": lambda: {first.name: node.kwargs["dims"][dim]},
        "reshape": lambda: _reshaped(first, node, dim),
    }
    return special[node.kind]() if node.kind in special else {}


def _acts_on_elements(model: nn.Module, node: Node) -> bool:
    """Not so a dropout of whole channels."""
    if node.kind != "dropout":
        return True
    if isinstance(node.target, str):
        return type(model.get_submodule(node.target)) is nn.Dropout
    return node.target in _DROPOUTS


def _acts_on_rows(model: nn.Module, node: Node) -> bool:
    """A linear layer does, unless a batch norm takes statistics over all rows."""
    if not node.is_layer:
        return True
    return node.kind == "linear" and node.batch_norm is None


def _broadcast(operands: list[Node], rank: int, dim: int) -> _Dims:
    """All operands that have the dimension, and not once for all."""
    found = {}
    for operand in operands:
        shape = operand.shape or ()
        own = dim - (rank - len(shape))
        if own >= 0 and shape[own] != 1:
            found[operand.name] = own
    return found


def _product(operands: list[Node], rank: int, dim: int) -> _Dims:
    """Rows are the left operand's, columns the right one's; everything before belongs to both."""
    if len(operands) != 2 or operands[0] is operands[1]:
        return {}
    ranks = [len(operand.shape or ()) for operand in operands]
    if dim == rank - 2:
        return {operands[0].name: ranks[0] - 2}
    if dim == rank - 1:
        return {operands[1].name: ranks[1] - 1}
    return _broadcast(operands, rank, dim)


def _reshaped(operand: Node, node: Node, dim: int) -> _Dims:
    """The dimension of the operand that is this one, if a reshape leaves it alone."""
    before, after = operand.shape or (), node.shape or ()
    for own, size in enumerate(before):
        same = size == after[dim] and math.prod(before[:own]) == math.prod(after[:dim])
        if same and size > 1 and own not in operand.batch_dims and len(node.batch_dims) <= 1:
            return {operand.name: own}
    return {}

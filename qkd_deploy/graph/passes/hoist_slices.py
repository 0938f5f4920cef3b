"""Slices move in front of what is computed for every row alike, so that no row is computed that nobody reads.

A vision transformer's head reads one token. Behind the keys and values of its last block, all others are dead: their
queries, attention, linear layers and norms cost a tenth of the network's time and change nothing.
"""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.graph.ir import Graph, Node, Ref, substitute
from qkd_deploy.graph.ops import operator_of


def hoist_slices(model: nn.Module, graph: Graph) -> None:
    """Move every slice of one dimension, unless it is the batch, as far forward as what it slices allows."""
    waiting = [node for node in graph.nodes if node.kind == "slice"]
    while waiting:
        node = waiting.pop()  # the last first: what it becomes may equal one in front
        if node in graph.nodes:
            waiting += _merged(graph, node) or _advanced(model, graph, node)
    read = {name for node in graph.nodes for name in node.inputs} | {*graph.outputs()}
    graph.nodes[:] = [node for node in graph.nodes if node.kind != "scalar" or node.name in read]


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
    rule = operator_of(source).slices
    dims = rule(model, source, [graph.node(name) for name in source.inputs], dim) if rule is not None else {}
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

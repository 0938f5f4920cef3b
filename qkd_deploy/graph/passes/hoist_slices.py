"""Slices move in front of what is computed for every row alike, so that no row is computed that nobody reads.

    linear(norm(x))[:, 0]   becomes   linear(norm(x[:, 0]))

A vision transformer's head reads one token. Behind the keys and values of its last block, all others are dead: their
queries, attention, linear layers and norms cost a tenth of the network's time and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from qkd_deploy.graph.ir import Graph, Node, Ref, substitute
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.passes.context import PassContext


def hoist_slices(context: PassContext) -> None:
    """Move every slice of one dimension, unless it is the batch, as far forward as what it slices allows."""
    graph = context.graph
    waiting = [node for node in graph.nodes if node.kind == "slice"]
    while waiting:
        node = waiting.pop()  # the last first: what it becomes may equal one in front
        if node in graph:
            waiting += _merged(graph, node) or _advanced(context.model, graph, node)
    graph.remove_unread("scalar")  # sizes that only reshapes of all rows have read


def _merged(graph: Graph, node: Node) -> list[Node]:
    """Let an equal slice of the same tensor stand for this one, or this one for it; returns the one that is left."""
    for other in graph.users(node.inputs[0]):
        if other is not node and (other.kind, other.args, other.kwargs) == (node.kind, node.args, node.kwargs):
            first, second = (other, node) if other.position < node.position else (node, other)
            graph.remove(second, first.name)
            return [first]
    return []


def _advanced(model: nn.Module, graph: Graph, node: Node) -> list[Node]:
    """Slice the operands instead of the result, where this slice is all that anybody reads of it; returns theirs."""
    if len(node.kwargs["ranges"]) != 1 or node.shape is None:
        return []
    source = graph.node(node.inputs[0])
    ((dim, *bounds),) = node.kwargs["ranges"]
    if graph.only_user(source.name) is not node or dim in source.batch_dims:
        return []
    rule = operator_of(source).slices
    dims = rule(model, source, [graph.node(name) for name in source.inputs], dim) if rule is not None else {}
    parts = {name: _sliced(graph, source, graph.node(name), own, bounds) for name, own in dims.items()}
    if parts:
        _read_parts(source, parts, node.shape)
        graph.remove(node, source.name)
    return [*parts.values()]


def _sliced(graph: Graph, reader: Node, operand: Node, dim: int, bounds: Sequence[int]) -> Node:
    """Put a slice of an operand in front of the node that reads it."""
    shape = list(operand.sizes)
    shape[dim] = len(range(shape[dim])[slice(*bounds)])
    made = Node(
        graph.unused_name(f"{operand.name}_for_{reader.name}"),
        "slice",
        (Ref(operand.name),),
        {"ranges": ((dim, *bounds),)},
        f"{operand.label}.part",
        reader.module,
        shape=tuple(shape),
        batch_dims=operand.batch_dims,
        dtype=operand.dtype,
    )
    graph.insert_before(reader, made)
    return made


def _read_parts(node: Node, parts: dict[str, Node], shape: tuple[int, ...]) -> None:
    """Let a node compute the part of its result that its operands' ``parts`` give."""

    def part_of(ref: Ref) -> Ref:
        return Ref(parts[ref.name].name) if ref.name in parts else ref

    node.args, node.kwargs = substitute((node.args, node.kwargs), part_of)
    node.shape, node.partial = shape, True
    if node.kind == "reshape":
        node.become("reshape", (node.args[0], node.open_shape))
        node.target = torch.reshape

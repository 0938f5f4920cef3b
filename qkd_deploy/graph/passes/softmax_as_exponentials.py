"""Softmax in front of a matrix product becomes a mean whose weights are exponentials.

    softmax(x) @ v  =  (e @ v) / sum(e)    with e = exp(x - max(x))

    softmax -> moves or dropout -> matmul   becomes   exponential -> moves or dropout -> weighted_mean

The largest weight of a row has code 128, however many share the row, while of 197 equal weights a softmax with step
1/256 leaves code 1. And quotients are taken of the few columns of ``v`` instead of every weight.
"""

from __future__ import annotations

from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.passes.context import PassContext


def softmax_as_exponentials(context: PassContext) -> None:
    """Rewrite every softmax that only such a product reads, with copies, reshapes of rows or dropout between them."""
    for node in context.graph.nodes:
        if node.kind == "softmax":
            _rewrite(context.graph, node)


def _rewrite(graph: Graph, softmax: Node) -> None:
    weights = undropped = softmax
    while (reader := graph.only_user(weights.name)) is not None:
        if reader.kind == "matmul" and reader.inputs[0] == weights.name != reader.inputs[1]:
            softmax.kind, softmax.clip = "exponential", (0.0, 1.0)
            reader.become("weighted_mean", (*reader.args, Ref(undropped.name)))
            return
        dropped = weights is not undropped
        if reader.kind == "reshape" and _keeps_rows(weights, reader, dropped=dropped):
            undropped = undropped if dropped else reader
        elif reader.kind != "dropout":
            return
        weights = reader


def _keeps_rows(before: Node, after: Node, *, dropped: bool) -> bool:
    """Whether a reshape leaves the rows whole; behind a dropout also their places, as the sums are from before it."""
    old, new = before.shape or (), after.shape or ()
    return old == new if dropped else old[-1:] == new[-1:]

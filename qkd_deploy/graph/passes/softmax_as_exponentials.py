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
    while (reader := graph.only_user(weights.name)) is not None and _passes_weights_on(weights, reader, undropped):
        if weights is undropped and reader.kind != "dropout":
            undropped = reader
        weights = reader
    if reader is not None and reader.kind == "matmul" and reader.inputs[0] == weights.name != reader.inputs[1]:
        softmax.kind, softmax.clip = "exponential", (0.0, 1.0)
        reader.become("weighted_mean", (*reader.args, Ref(undropped.name)))


def _passes_weights_on(weights: Node, reader: Node, undropped: Node) -> bool:
    """True where weights only drop out, or change their shape by whole rows.

    Behind a dropout also the places of the rows must stay, because the sums that divide are from before it.
    """
    if reader.kind != "reshape":
        return reader.kind == "dropout"
    old, new = weights.sizes, reader.sizes
    return old[-1:] == new[-1:] if weights is undropped else old == new

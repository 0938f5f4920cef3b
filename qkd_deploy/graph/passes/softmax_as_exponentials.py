"""Softmax in front of a matrix product: a mean whose weights are exponentials.

``softmax(x) @ v`` is ``(e @ v) / sum(e)`` with ``e = exp(x - max(x))``. The largest weight of a row has code 128,
however many share the row, while of 197 equal weights a softmax with step 1/256 leaves code 1. And quotients are taken
of the few columns of ``v`` instead of every weight.
"""

from __future__ import annotations

from qkd_deploy.graph.ir import Graph, Node, Ref


def softmax_as_exponentials(graph: Graph) -> None:
    """Rewrite every softmax that only such a product reads, with copies, reshapes of rows or dropout between them."""
    readers = graph.consumers()
    for softmax in [node for node in graph.nodes if node.kind == "softmax"]:
        last = undropped = softmax
        while last.name not in graph.outputs() and len(readers[last.name]) == 1:
            reader = readers[last.name][0]
            if reader.kind == "matmul" and reader.inputs[0] == last.name != reader.inputs[1]:
                softmax.kind, softmax.clip = "exponential", (0.0, 1.0)
                reader.kind, reader.kwargs = "weighted_mean", {}
                reader.args = (Ref(last.name), Ref(reader.inputs[1]), Ref(undropped.name))
                break
            if reader.kind == "reshape" and _keeps_rows(last, reader, dropped=last is not undropped):
                undropped = reader if last is undropped else undropped
            elif reader.kind != "dropout":
                break
            last = reader


def _keeps_rows(before: Node, after: Node, *, dropped: bool) -> bool:
    """Whether a reshape leaves the rows whole; behind a dropout also their places, as the sums are from before it."""
    old, new = before.shape or (), after.shape or ()
    return old == new if dropped else old[-1:] == new[-1:]

"""Softmax in front of a matrix product: a mean whose weights are exponentials.

``softmax(x) @ v`` is ``(e @ v) / sum(e)`` with ``e = exp(x - max(x))``. The largest weight of a row has code 128,
however many share the row, while of 197 equal weights a softmax with step 1/256 leaves code 1. And quotients are taken
of the few columns of ``v`` instead of every weight.
"""

from __future__ import annotations

from qkd_deploy.graph.ir import Graph, Node, Ref


def weigh_by_exponentials(graph: Graph) -> None:
    """Rewrite every softmax that only such a product reads, with dropout between them or not."""
    readers = graph.consumers()
    for softmax in graph.nodes:
        if softmax.kind != "softmax":
            continue
        last = softmax
        while last.name not in graph.outputs() and len(readers[last.name]) == 1:
            reader = readers[last.name][0]
            if reader.kind == "matmul" and reader.inputs[0] == last.name != reader.inputs[1]:
                _weigh(softmax, last, reader)
            if reader.kind != "dropout":
                break
            last = reader


def _weigh(softmax: Node, dropped: Node, product: Node) -> None:
    softmax.kind, softmax.clip = "exponential", (0.0, 1.0)
    product.kind = "weighted_mean"
    product.args, product.kwargs = (Ref(dropped.name), Ref(product.inputs[1]), Ref(softmax.name)), {}

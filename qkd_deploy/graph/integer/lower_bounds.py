"""The least codes that occur in tensors that are never far below zero.

An integer clip below 8 bits costs a pass over the tensor. Saturation of uint8 does the same for nothing at one end of
the codes, which therefore lies at 255 where nothing can fall below the other end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.gates import MARGIN


def lower_bound(graph: Graph, node: Node, operands: Sequence[CodeRange], scale: float) -> int | None:
    """Bound the centered codes that ``node`` computes before they are clipped; None where no bound is known.

    Args:
        graph: with ``node`` in it.
        node: a quantized tensor.
        operands: their codes, each with ``lo`` raised to the least code that occurs.
        scale: of the node's own codes.
    """
    rule = operator_of(node).lower_bound
    least = rule(graph, node, operands) if rule is not None and operands else None
    return None if least is None else int(np.floor(least / scale + 0.5 - MARGIN))

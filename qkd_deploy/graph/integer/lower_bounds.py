"""Tensors that are never far below zero: how far, in codes.

An integer clip below 8 bits costs a pass over the tensor. Saturation of uint8 does the same for nothing at one end of
the grid, which therefore lies at 255 where nothing can fall below the other end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.ir import Graph, Node

_Doubles = npt.NDArray[np.float64]
_MARGIN = 1e-3
"""In steps; far more than float32 kernels are off by."""


def _sigmoid(x: _Doubles) -> _Doubles:
    result: _Doubles = 1 / (1 + np.exp(-x))
    return result


def _hard_sigmoid(x: _Doubles) -> _Doubles:
    return np.clip(x / 6 + 0.5, 0, 1)


_GATES: dict[str, Callable[[_Doubles], _Doubles]] = {"sigmoid": _sigmoid, "hard_sigmoid": _hard_sigmoid}
_KEEPING = ("requantize", "clip", "global_avg_pool", "avg_pool")
"""Kinds whose results are no smaller than their operand's smallest value, or than padding with zeros."""


def lower_bound(graph: Graph, node: Node, operands: Sequence[CodeRange], scale: float) -> int | None:
    """A lower bound of the centered codes that ``node`` computes before they are clipped; None where none is known.

    Args:
        graph: with ``node`` in it.
        node: a quantized tensor.
        operands: their grids, each with ``lo`` raised to the least code that occurs.
        scale: of the node's own grid.
    """
    if node.kind == "mul" and len(operands) == 2:
        least = _least_product(graph, node, operands)
    elif node.kind in _KEEPING and operands:
        least = operands[0].scale * min(operands[0].lo, 0)
    else:
        return None
    return int(np.floor(least / scale + 0.5 - _MARGIN))


def _least_product(graph: Graph, node: Node, operands: Sequence[CodeRange]) -> float:
    """The smallest product; of a tensor with a gate that it opens itself (SiLU, hard swish) the smallest of those."""
    names = node.inputs
    for x, gate in ((0, 1), (1, 0)):
        if len(names) != 2:
            break
        opener = graph.node(names[gate])
        if opener.kind in _GATES and opener.inputs == [names[x]] and opener.clip is None:
            values = np.arange(operands[x].lo, operands[x].hi + 1, dtype=np.float64) * operands[x].scale
            step = operands[gate].scale
            gates = np.floor(_GATES[opener.kind](values) / step + 0.5 + _MARGIN) * step
            return float((values * gates).min())
    ends = [(grid.lo * grid.scale, grid.hi * grid.scale) for grid in operands]
    return min(a * b for a, b in product(*ends))

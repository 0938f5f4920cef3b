"""Worst cases of the integer sums: proof that no accumulator, with or without its bias, leaves int32.

Every product of a weight and a code lies between its values at the two ends of the codes' range, so that the largest
sum of an output channel takes the top code where its weight is positive and the bottom code where it is negative. That
is exact: some input reaches it. Padding puts zeros (or the zero point) in place of some codes, and can only shrink it.

Kernels arrive at the same sum in two ways, and both must fit at every step, because the dot products of x86 CPUs with
VNNI saturate at int32 instead of wrapping around: they add products of *centered* codes ``(x - z) * w``, or products of
*stored* codes ``x * w`` and, before or after, the correction ``-z * sum(w)``. Biases are added to the finished sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

    from qkd_deploy.graph.integer.model import FrozenModel
    from qkd_deploy.graph.quantized import QuantParams

INT32_BITS = 31

Interval = tuple[int, int]


@dataclass(frozen=True)
class Headroom:
    """How far the sums of one node are from overflowing int32; intervals are (least, largest) over its channels.

    Attributes:
        name: the layer or pooling.
        accumulator: the finished sums of products.
        total: the same with the bias.
        running: unfinished sums of stored codes in any order, with and without the correction for the zero point.
        channel: the output channel that comes closest to overflowing.
        bits: that the farthest of all these values takes; 31 fit.
        free: 31 - bits; negative where an overflow is possible.
    """

    name: str
    accumulator: Interval
    total: Interval
    running: Interval
    channel: int
    bits: float
    free: float

    @property
    def fits(self) -> bool:
        """Whether no input whatsoever can overflow int32."""
        return self.free >= 0


@dataclass(frozen=True)
class CodeRange:
    """Stored codes of a tensor: ``lo`` and ``hi``, and the code that stands for 0."""

    lo: int
    hi: int
    zero_point: int

    @property
    def top(self) -> int:
        """The largest code that a kernel meets: padding is the zero point."""
        return max(self.hi, self.zero_point)


def layer_headroom(name: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None, codes: CodeRange) -> Headroom:
    """The worst case of a layer with constant weights.

    Args:
        name: the layer.
        weight: its integers, [output channels, products of one sum].
        bias: int32 per output channel, or None.
        codes: of its input.
    """
    positive = np.maximum(weight, 0).sum(axis=1, dtype=np.int64)
    negative = np.minimum(weight, 0).sum(axis=1, dtype=np.int64)
    low, high = min(codes.lo - codes.zero_point, 0), max(codes.hi - codes.zero_point, 0)  # padding adds zeros
    sums = positive * low + negative * high, positive * high + negative * low
    offset = np.zeros_like(positive) if bias is None else bias.astype(np.int64)
    totals = sums[0] + offset, sums[1] + offset
    correction = -codes.zero_point * (positive + negative)
    running = negative * codes.top + np.minimum(correction, 0), positive * codes.top + np.maximum(correction, 0)
    return _summarized(name, sums, totals, running)


def product_headroom(name: str, products: int, left: CodeRange, right: CodeRange) -> Headroom:
    """The worst case of a product of two activations, where every pair of codes is possible."""
    corners = [(a, b) for a in (left.lo, left.hi) for b in (right.lo, right.hi)]
    ends = [(a - left.zero_point) * (b - right.zero_point) for a, b in corners]
    sums = products * min(ends), products * max(ends)
    stored = [a * b for a in (left.lo, left.top) for b in (right.lo, right.top)]
    parts = [
        stored,
        [-left.zero_point * b for b in (right.lo, right.top)],
        [-right.zero_point * a for a in (left.lo, left.top)],
        [left.zero_point * right.zero_point],
    ]
    running = products * sum(min(0, *part) for part in parts), products * sum(max(0, *part) for part in parts)
    pairs = [tuple(np.array([end], np.int64) for end in interval) for interval in (sums, sums, running)]
    return _summarized(name, *pairs)  # type: ignore[arg-type]


_Ends = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _summarized(name: str, sums: _Ends, totals: _Ends, running: _Ends) -> Headroom:
    every = np.array([np.maximum(-low, high + 1) for low, high in (sums, totals, running)]).max(axis=0)
    channel = int(every.argmax())
    bits = math.log2(max(int(every[channel]), 1))
    whole, biased, partial = ((int(low.min()), int(high.max())) for low, high in (sums, totals, running))
    return Headroom(name, whole, biased, partial, channel, bits, INT32_BITS - bits)


def frozen_headroom(frozen: FrozenModel) -> dict[str, Headroom]:
    """The worst case of every node of a frozen model that sums products of integers, by name, in execution order."""
    from qkd_deploy.graph.ops import operator_of
    from qkd_deploy.graph.quantized import meets_signed

    found: dict[str, Headroom] = {}
    grids: dict[str, QuantParams] = {}  # tensor -> the grid that its codes are on
    for node in frozen.graph.nodes:
        first = node.inputs[0] if node.inputs else ""
        if node.quantizer is not None:
            grids[node.name] = frozen.grid(node.quantizer)
        elif operator_of(node).moves_codes and first in grids:
            grids[node.name] = grids[first]
        if first in grids and (sums := _integer_sums(frozen, node)) is not None:
            weight, bias = sums
            found[node.name] = layer_headroom(node.name, weight, bias, _stored(grids[first]))
        elif (
            operator_of(node).sums_products
            and node.quantizer is not None
            and all(name in grids for name in node.inputs)
        ):
            left, right = (grids[name] for name in node.inputs[:2])
            products = (frozen.graph.node(first).shape or ())[-1]
            factor = _signed(right) if meets_signed(left, right) else _stored(right)
            found[node.name] = product_headroom(node.name, products, _stored(left), factor)
    return found


def _stored(grid: QuantParams) -> CodeRange:
    return CodeRange(grid.lo + grid.zero_point, grid.hi + grid.zero_point, grid.zero_point)


def _signed(grid: QuantParams) -> CodeRange:
    """Of codes that become signed bytes."""
    return CodeRange(grid.lo - grid.middle, grid.hi - grid.middle, -grid.middle)


def _integer_sums(frozen: FrozenModel, node: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None] | None:
    """Weights [channels, products] and bias of a node that sums integers; None for every other."""
    from qkd_deploy.graph.quantized import POOL_CODE

    if node.is_layer and node.source is not None:
        layer = frozen.layer(node)
        if node.quantizer is None and node.kind != "linear":
            return None
        return layer.codes.flatten(1).cpu().numpy(), layer.bias.cpu().numpy()
    if node.kind == "avg_pool" and node.quantizer is not None:
        return np.full((1, math.prod(node.kwargs["kernel_size"])), POOL_CODE, np.int8), None
    return None


def file_headroom(model: onnx.ModelProto) -> dict[str, Headroom]:
    """The worst case of every product of an ONNX graph that sums integers, by name, in graph order.

    It reads nothing but the graph's own constants and quantizers, whatever its metadata say.
    """
    from qkd_deploy.verification.overflow.code_ranges import IntegerProduct, integer_products

    def of(product: IntegerProduct) -> Headroom:
        if product.right is not None:
            return product_headroom(product.name, product.products, product.left, product.right)
        assert product.weight is not None
        return layer_headroom(product.name, product.weight, product.bias, product.left)

    return {product.name: of(product) for product in integer_products(model)}

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
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from qkd_deploy.verification.overflow.code_ranges import StoredCodes
from qkd_deploy.verification.overflow.integer_products import IntegerProduct, integer_products

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
        """True where no input whatsoever can overflow int32."""
        return self.free >= 0


def layer_headroom(name: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None, codes: StoredCodes) -> Headroom:
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


def product_headroom(name: str, products: int, left: StoredCodes, right: StoredCodes) -> Headroom:
    """The worst case of a product of two activations, where every pair of codes is possible."""
    a, b = np.array([left.lo, left.hi]), np.array([right.lo, right.hi])
    centered = np.outer(a - left.zero_point, b - right.zero_point)
    sums = products * int(centered.min()), products * int(centered.max())
    a, b = np.array([left.lo, left.top]), np.array([right.lo, right.top])
    parts = (np.outer(a, b), -left.zero_point * b, -right.zero_point * a, np.array(left.zero_point * right.zero_point))
    least = sum(int(part.min(initial=0)) for part in parts)
    most = sum(int(part.max(initial=0)) for part in parts)
    running = products * least, products * most
    return _summarized(name, _ends(sums), _ends(sums), _ends(running))


def _ends(interval: Interval) -> _Ends:
    return np.array([interval[0]], np.int64), np.array([interval[1]], np.int64)


_Ends = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _summarized(name: str, sums: _Ends, totals: _Ends, running: _Ends) -> Headroom:
    every = np.array([np.maximum(-low, high + 1) for low, high in (sums, totals, running)]).max(axis=0)
    channel = int(every.argmax())
    bits = math.log2(max(int(every[channel]), 1))
    whole, biased, partial = ((int(low.min()), int(high.max())) for low, high in (sums, totals, running))
    return Headroom(name, whole, biased, partial, channel, bits, INT32_BITS - bits)


def file_headroom(model: onnx.ModelProto) -> dict[str, Headroom]:
    """The worst case of every product of an ONNX graph that sums integers, by name, in graph order.

    It reads nothing but the graph's own constants and quantizers, whatever its metadata say.
    """
    return {product.name: _headroom(product) for product in integer_products(model)}


def _headroom(product: IntegerProduct) -> Headroom:
    if product.right is not None:
        return product_headroom(product.name, product.products, product.left, product.right)
    assert product.weight is not None
    return layer_headroom(product.name, product.weight, product.bias, product.left)

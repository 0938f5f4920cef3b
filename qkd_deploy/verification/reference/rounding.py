"""How ONNX Runtime's integer kernels round, operation by operation.

Everything is float32, rounding half to even, one rounding per operation written here. Codes are stored codes (usually
uint8), scales are float32 scalars or one per channel, zero points are given in stored codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F32 = np.float32
FLOAT_ERROR = 3e-4
"""Steps by which a value behind a float operator may be off: the float32 sums of some hundred products."""


class Parameters(NamedTuple):
    """Scale (float32) and zero point (in the type of the codes) of a whole tensor, both 0-d."""

    scale: np.ndarray
    zero: np.ndarray


def quantize(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """QuantizeLinear: ``saturate(rint(x / scale) + zero_point)`` with a true division; NaN becomes the lowest code."""
    return round_and_saturate(x / scale.astype(F32), zero_point)


def round_and_saturate(y: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """``rint(clip(y, lo - zp, hi - zp)) + zp`` in the type of the zero point; ``y`` counts steps."""
    kind = np.iinfo(zero_point.dtype)
    zero = zero_point.astype(F32)
    steps = np.rint(np.fmin(np.fmax(y, F32(kind.min) - zero), F32(kind.max) - zero))
    return np.asarray((steps + zero).astype(zero_point.dtype))


def near_ties(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Where values that a float operator computed are so near the middle of two codes that either may be right."""
    steps = x / scale.astype(F32)
    return np.asarray(np.abs(steps - np.floor(steps) - F32(0.5)) <= FLOAT_ERROR)


def dequantize(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """DequantizeLinear: ``f32(code - zero_point) * scale``."""
    centred = codes.astype(np.int64) - zero_point.astype(np.int64)
    return np.asarray(centred.astype(F32) * scale.astype(F32))


def multiplier(input_scale: np.ndarray, weight_scale: np.ndarray, output_scale: np.ndarray) -> np.ndarray:
    """``f32(f32(s_x * s_w) / s_y)``, the factor of QLinearConv, QLinearMatMul and QGemm."""
    return np.asarray(F32(input_scale) * weight_scale.astype(F32) / F32(output_scale))


def to_int32(accumulator: np.ndarray) -> np.ndarray:
    """Exact integers (float32, float64) as the int32 register holds them: sums beyond 31 bits wrap around."""
    if accumulator.size and float(np.abs(accumulator).max()) >= 2.0**31:
        return accumulator.astype(np.int64).astype(np.int32)
    return accumulator


def requantize(accumulator: np.ndarray, factor: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """``rint(clip(f32(acc) * factor, lo - zp, hi - zp)) + zp``; ``factor`` broadcasts against ``accumulator``."""
    return round_and_saturate(to_int32(accumulator).astype(F32) * factor, zero_point)


def fused_multiply_add(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> np.ndarray:
    """``a * b + c`` of float32 arrays with a single rounding to float32, on any machine.

    The product of two float32 numbers is exact in float64. The sum is not, and rounding it to float64 and then to
    float32 could round twice. So Knuth's error-free addition gives the lost part, and where something was lost the
    float64 sum takes the neighbour with an odd last bit ("round to odd"). Rounding that to float32 equals rounding the
    exact sum, because float64 has more than two bits beyond float32 (Boldo and Melquiond, 2008).
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & even, odd, total).astype(F32)

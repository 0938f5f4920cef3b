"""An output scale for an integer addition on which all CPUs agree.

ONNX Runtime computes ``rint(a*rA + b*rB + F)`` with fused multiply-adds on some x86 CPUs and without on others, and in
fixed point on ARM; the ONNX definition dequantizes, adds and divides. They differ only where the result is a rounding
tie or nearly one. Both operands have at most 256 codes, so all pairs can be tried: the scale is moved by as few units
in the last place as it takes until every form gives the same code for every pair. That is a proof for this model on
every CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qkd_deploy.errors import UserError

_MAX_RATIO, _FINE_RATIO = 1024.0, 16.0
"""An operand's scale over the output's. Beyond the first, all sums but those near zero saturate; between the two, the
float32 rounding of the zero points' offsets may decide ties that no nudge settles, so that the scale is doubled."""
_FIXED_POINT = (2.0**-14, 256.0)
"""Ratios of an operand's scale to the output's that ARM kernels compute in fixed point, the second left out."""
_MAX_NUDGE = 4096  # units in the last place: 5 parts in 10^4

Floats = npt.NDArray[np.float32]
_Operand = Floats | np.floating[Any]


@dataclass(frozen=True)
class CodeRange:
    """The codes that a tensor can hold: scale, zero point, and least and largest centered code."""

    scale: float
    zero_point: int
    lo: int
    hi: int


def portable_add_scale(a: CodeRange, b: CodeRange, out: CodeRange, name: str) -> float:
    """The float32 output scale nearest to ``out.scale`` on which all forms of ``a + b`` agree, for every pair of codes.

    Raises:
        UserError: no such scale nearby, as where one operand has a scale some 10^5 times smaller than the other's.
    """
    largest = max(a.scale, b.scale)
    start = max(out.scale, largest / _MAX_RATIO)
    while True:
        for scale in nudged(start):
            if _forms_agree(a, b, CodeRange(scale, out.zero_point, out.lo, out.hi)):
                return scale
        if start > largest / _FINE_RATIO:
            break
        start *= 2
    raise no_portable_scale(name)


def no_portable_scale(name: str) -> UserError:
    """Make the error of a tensor for which every scale nearby leaves some CPUs with another code."""
    return UserError(
        f"{name} has no output scale on which all CPUs agree; set the scales anew with initialize(model, batch) or "
        "calibrate(model, data)"
    )


def nudged(scale: float) -> Iterator[float]:
    """``scale`` as float32, then its neighbours on both sides, first one by one, then in growing strides."""
    bits = np.float32(scale).view(np.int32)
    sizes = [*range(1, 65), *range(68, 257, 4), *range(272, _MAX_NUDGE, 16)]
    for nudge in [0, *(sign * size for size in sizes for sign in (1, -1))]:
        yield float(np.int32(bits + nudge).view(np.float32))


def _forms_agree(a: CodeRange, b: CodeRange, out: CodeRange) -> bool:
    codes_a, codes_b = _near_ties(a, b, out)
    if codes_a.size == 0:
        return True
    expected = _definition(codes_a, codes_b, a, b, out)
    return all(np.array_equal(form, expected) for form in _runtime_forms(codes_a, codes_b, a, b, out))


def _near_ties(a: CodeRange, b: CodeRange, out: CodeRange) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of centered codes whose sum is so near to a tie that float32 rounding decides; others cannot differ."""
    codes_a, codes_b = np.arange(a.lo, a.hi + 1), np.arange(b.lo, b.hi + 1)
    part_a = codes_a * (a.scale / out.scale)
    part_b = codes_b * (b.scale / out.scale)
    exact = part_a[:, None] + part_b[None, :]
    magnitude = np.abs(part_a).max() + np.abs(part_b).max() + 512.0
    offsets = a.zero_point * a.scale / out.scale + b.zero_point * b.scale / out.scale
    margin = 2.0**-20 * (magnitude + offsets)
    # ARM's multipliers are off by half a unit: 2^-22 of the larger one, for every step of either operand
    margin += 2.0**-22 * (np.abs(codes_a).max() + np.abs(codes_b).max()) * max(a.scale, b.scale) / out.scale
    near = np.abs(np.abs(exact - np.rint(exact)) - 0.5) < margin
    near &= (exact > out.lo - 1 - margin) & (exact < out.hi + 1 + margin)
    rows, columns = np.nonzero(near)
    return codes_a[rows], codes_b[columns]


def _definition(
    codes_a: npt.NDArray[np.int64], codes_b: npt.NDArray[np.int64], a: CodeRange, b: CodeRange, out: CodeRange
) -> npt.NDArray[np.int64]:
    """The ONNX definition: dequantize, add, quantize, all in float32."""
    total = np.float32(codes_a) * np.float32(a.scale) + np.float32(codes_b) * np.float32(b.scale)
    return _clip(np.rint(total / np.float32(out.scale)), out)


def _runtime_forms(
    codes_a: npt.NDArray[np.int64], codes_b: npt.NDArray[np.int64], a: CodeRange, b: CodeRange, out: CodeRange
) -> list[npt.NDArray[np.int64]]:
    """Compute the sums as ONNX Runtime does: with and without fused multiply-adds, and either operand first.

    The operands change places where the first one is the broadcast one.
    """
    either = _ordered_forms(codes_a, codes_b, a, b, out) + _ordered_forms(codes_b, codes_a, b, a, out)
    return [*either, *_fixed_point(codes_a, codes_b, a, b, out)]


def _fixed_point(
    codes_a: npt.NDArray[np.int64], codes_b: npt.NDArray[np.int64], a: CodeRange, b: CodeRange, out: CodeRange
) -> list[npt.NDArray[np.int64]]:
    """Compute the sums as ONNX Runtime does on ARM: multipliers of 22 bits, and ties away from zero.

    Ratios outside ``_FIXED_POINT`` are computed in float there too.
    """
    ratios = [np.float32(operand.scale) / np.float32(out.scale) for operand in (a, b)]
    if not all(_FIXED_POINT[0] <= ratio < _FIXED_POINT[1] for ratio in ratios):
        return []
    shift = 22 - int(np.frexp(max(ratios))[1])
    factor_a, factor_b = (np.int64(np.rint(np.ldexp(ratio, shift))) for ratio in ratios)
    total = codes_a * factor_a + codes_b * factor_b
    return [np.clip((total - (total < 0) + (1 << (shift - 1))) >> shift, out.lo, out.hi)]


def _ordered_forms(
    codes_a: npt.NDArray[np.int64], codes_b: npt.NDArray[np.int64], a: CodeRange, b: CodeRange, out: CodeRange
) -> list[npt.NDArray[np.int64]]:
    stored_a, stored_b = np.float32(codes_a + a.zero_point), np.float32(codes_b + b.zero_point)
    ratio_a, ratio_b = np.float32(a.scale) / np.float32(out.scale), np.float32(b.scale) / np.float32(out.scale)
    zero_a, zero_b, zero_out = np.float32(a.zero_point), np.float32(b.zero_point), np.float32(out.zero_point)
    separate = np.float32(zero_out - (ratio_a * zero_a + ratio_b * zero_b))
    fused = np.float32(zero_out - fma(np.atleast_1d(ratio_a), zero_a, ratio_b * zero_b)[0])
    results = []
    for offset in (separate, fused):
        with_fma = fma(stored_a, ratio_a, fma(stored_b, ratio_b, np.full_like(stored_b, offset)))
        without = stored_a * ratio_a + (stored_b * ratio_b + offset)
        results += [_clip(np.rint(form) - zero_out, out) for form in (with_fma, without)]
    return results


def fma(x: _Operand, y: _Operand, z: _Operand) -> Floats:
    """``x * y + z`` with a single rounding to float32.

    The product is exact in float64. The sum is rounded to odd in float64 (its error is known exactly), so that the
    second rounding, to float32, gives what one rounding would.
    """
    product = np.float64(x) * np.float64(y)
    addend = np.float64(z)
    total = product + addend
    carried = total - product
    error = (product - (total - carried)) + (addend - carried)
    even = (total.view(np.int64) & 1) == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    result: Floats = np.where((error != 0) & even, np.nextafter(total, toward), total).astype(np.float32)
    return result


def _clip(values: npt.NDArray[np.floating[Any]], out: CodeRange) -> npt.NDArray[np.int64]:
    clipped: npt.NDArray[np.int64] = np.clip(values, out.lo, out.hi).astype(np.int64)
    return clipped

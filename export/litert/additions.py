"""Additions in XNNPACK's fixed point, and for which labels of the result they give every code.

The kernel computes ``(a * m_a + b * m_b + half) >> shift`` with multipliers of 21 bits. Of all pairs of codes it may
round a handful otherwise than the real sum is rounded. All pairs are tried, with the label of the result moved by a few
units in the last place, which moves the multipliers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkd_deploy.export.litert.grid import LEAST, MOST, Grid, Scales, neighbours

_BITS = 20
_TRIED = 200
_MARGIN = 2e-3
"""Of a rounding tie, in steps: beyond it, no multipliers that are tried give another code."""
_SHIFTS = range(13, 31)

Codes = npt.NDArray[np.int64]


def exact_label(a: Grid, b: Grid, y: Grid, *, same: bool) -> float | None:
    """The label of a sum nearest to its scale with which the kernel gives every code; None where there is none.

    Args:
        a: of the first operand.
        b: of the second operand.
        y: of the sum, with its scale as label.
        same: True where both operands are one tensor.
    """
    one, two, real = _pairs(a, b, same=same)
    steps = real / np.float32(y.scale)
    low, high = LEAST - y.zero, MOST - y.zero
    near = (np.abs(steps - np.floor(steps) - 0.5) < _MARGIN) & (steps > low - 1) & (steps < high + 1)
    wanted = np.rint(steps[near]).clip(low, high)
    for label in neighbours(y.scale, _TRIED):
        made = fixed_point_sum(one[near], two[near], a.label, b.label, label)
        if made is not None and np.array_equal(made.clip(low, high), wanted):
            return label
    return None


def is_quantized_exactly(a: Grid, b: Grid, scale: float, *, same: bool) -> bool:
    """True where every sum in float32 gives the same code times ``1 / scale`` as it does over ``scale``."""
    _, _, real = _pairs(a, b, same=same)
    inverse = np.float32(1) / np.float32(scale)
    return bool(np.array_equal(np.rint(real * inverse), np.rint(real / np.float32(scale))))


def _pairs(a: Grid, b: Grid, *, same: bool) -> tuple[Codes, Codes, Scales]:
    """All pairs of centered codes, and their sums in float32."""
    left, right = np.arange(a.params.lo, a.params.hi + 1), np.arange(b.params.lo, b.params.hi + 1)
    one, two = (left, left) if same else (side.ravel() for side in np.meshgrid(left, right, indexing="ij"))
    return one, two, one.astype(np.float32) * np.float32(a.scale) + two.astype(np.float32) * np.float32(b.scale)


def fixed_point_sum(one: Codes, two: Codes, a: float, b: float, y: float) -> Codes | None:
    """Sums of centered codes as the kernel computes them; None for scales that it does not take."""
    ratios = np.array([a, b], np.float32) / np.float32(y)
    shift = _BITS + 1 - int(np.frexp(ratios.max())[1])
    if shift not in _SHIFTS:
        return None
    left, right = np.rint(np.ldexp(ratios.astype(np.float64), shift)).astype(np.int64)
    made: Codes = (one * left + two * right + (1 << (shift - 1))) >> shift
    return made

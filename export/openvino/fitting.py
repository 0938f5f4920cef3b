"""Constants with which float32 arithmetic of another order gives the same codes, for every operand that can occur.

OpenVINO multiplies an accumulator and then adds the bias; ONNX Runtime adds it first. Both differ where the result is
nearly a tie. Accumulators are integers, so that the places where codes change can be listed: a shift of the bias, too
small to move any of them, keeps all results away from ties, or at least from those that are decided otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

_SHARES = (1.0, 0.75, 1.25, 0.5, 1.5, 0.25, 0.0)
"""Shares of the best shift that are tried, in turn."""
_UNITS = tuple(sign * count * 2.0**-20 for count in (1, 2, 3, 4, 6, 8) for sign in (1, -1))
"""Shifts that are tried where there is no room for others."""
_WINDOW = np.arange(-1, 4)


@dataclass(frozen=True)
class _Steps:
    """Where codes change: one row for every channel.

    Attributes:
        limits: between neighbouring codes.
        lower: the last sums of products that give the lower code; NaN where none does.
        upper: the first that give the higher one.
    """

    limits: npt.NDArray[np.floating[Any]]
    lower: Doubles
    upper: Doubles


def fitted_bias(
    multiplier: Floats, bias: npt.NDArray[np.int64], spread: tuple[int, int], codes: tuple[int, int]
) -> Floats | None:
    """The bias in steps of the output for which every sum of products gets its code; None where there is none.

    Args:
        multiplier: of every channel, ``f32(s_x * s_w / s_y)``.
        bias: of every channel, on the grid of the accumulator.
        spread: what all sums of products are multiples of, and their largest magnitude.
        codes: the least and the largest code.
    """
    m, b = multiplier.astype(np.float64), bias.astype(np.float64)
    steps = _steps(multiplier, b, spread, codes)
    room_up = _least(steps.limits - (steps.lower + b[:, None]) * m[:, None])
    room_down = _least((steps.upper + b[:, None]) * m[:, None] - steps.limits)
    best = (room_up - room_down) / 2
    fitted, open_ = (b * m).astype(np.float32), np.full(len(m), True)
    for shift in (*(share * best for share in _SHARES), *(np.full_like(best, unit) for unit in _UNITS)):
        candidate = (b * m + shift).astype(np.float32)
        right = open_ & _all_right(steps, multiplier, candidate)
        fitted[right] = candidate[right]
        open_ &= ~right
        if not open_.any():
            return fitted
    return None


def _steps(multiplier: Floats, bias: Doubles, spread: tuple[int, int], codes: tuple[int, int]) -> _Steps:
    step, extent = spread
    limits = np.arange(codes[0], codes[1], dtype=np.float64) + 0.5
    near = np.floor((limits / multiplier[:, None].astype(np.float64) - bias[:, None]) / step)[..., None] + _WINDOW
    made = np.rint((near * step + bias[:, None, None]).astype(np.float32) * multiplier[:, None, None])
    first = np.take_along_axis(near, np.argmax(made > limits[:, None], -1)[..., None], -1)[..., 0]

    def within(sums: npt.NDArray[Any]) -> Doubles:
        result: Doubles = np.where(np.abs(sums) <= extent, sums, np.nan)
        return result

    return _Steps(limits, within((first - 1) * step), within(first * step))


def _least(rooms: Doubles) -> Doubles:
    """The least room of every channel, half a step at most."""
    result: Doubles = np.fmin(np.nan_to_num(rooms, nan=0.5).min(1, initial=0.5), 0.5)
    return result


def _all_right(steps: _Steps, multiplier: Floats, bias: Floats) -> npt.NDArray[np.bool_]:
    """Say for which channels all sums get their codes, with a fused multiply-add and without."""
    m, b, right = multiplier[:, None], bias[:, None], np.full(len(bias), True)
    for sums, upwards in ((steps.lower, False), (steps.upper, True)):
        single = sums.astype(np.float32)
        fused = (single.astype(np.float64) * m.astype(np.float64) + b.astype(np.float64)).astype(np.float32)
        for result in (fused, single * m + b):
            wrong = ((np.rint(result) > steps.limits) != upwards) & ~np.isnan(sums)
            right &= ~wrong.any(1)
    return right

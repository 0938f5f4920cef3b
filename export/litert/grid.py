"""The grids of a file: which bytes stand for a tensor's codes, and with what scale the file labels them.

XNNPACK's integer kernels read scales only as ratios: a convolution multiplies its sums by
``f32(f32(s_x * s_w) / s_y)``. So a tensor may be labelled with another scale than its own where the scales of its
readers' weights make up for it. One end of the codes is where bytes saturate; the other, where it is no code of a byte,
is cut by the kernel's activation function in passing: Relu cuts at zero, and Relu_N1_to_1 at ``rint(1 / label)`` steps
from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qkd_deploy.graph.quantized import QuantParams

LEAST, MOST = -128, 127
_NEAR = np.array([0, 1, -1, 2, -2, 3, -3], np.int32)
_TRIED = 64
EXACT = 2**24
"""Integers up to here are float32 numbers, and so are their sums in any order."""

Scales = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """How a file stores the codes of a tensor.

    Attributes:
        params: what the codes stand for.
        zero: the byte that stands for zero.
        label: the scale that the file gives them.
        cut: the activation function that cuts them to their range: "NONE", "RELU" or "RELU_N1_TO_1".
    """

    params: QuantParams
    zero: int
    label: float
    cut: str = "NONE"

    @property
    def scale(self) -> float:
        """The scale that the codes have."""
        return float(self.params.scale)

    @property
    def is_true(self) -> bool:
        """True where the file says what the codes stand for."""
        return self.label == self.scale

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest byte."""
        return self.params.lo + self.zero, self.params.hi + self.zero


def true_grid(params: QuantParams, zero: int | None = None) -> Grid:
    """Store codes as the ONNX file does, less 128, or with another byte for zero."""
    return Grid(params, params.zero_point - 128 if zero is None else zero, float(params.scale))


def is_whole(grid: Grid) -> bool:
    """True where nothing has to be cut: what is beyond the codes is beyond a byte, or never computed."""
    low, high = grid.limits
    return high == MOST and (low == LEAST or grid.params.bounded_below)


def made_grid(params: QuantParams) -> Grid:
    """The grid that an integer kernel with an activation function makes codes on."""
    grid, low, high = true_grid(params), params.lo, params.hi
    if is_whole(grid):
        return grid
    if params.bounded_below or low == 0:
        return replace(grid, zero=MOST - high, cut="NONE" if params.bounded_below else "RELU")
    zero = LEAST - low if high > -low else MOST - high
    return Grid(params, zero, float(np.float32(1 / max(-low, high))), "RELU_N1_TO_1")


def neighbours(label: float, count: int) -> Iterator[float]:
    """A float32 and those beside it, by distance."""
    for step in range(count):
        for sign in (1, -1) if step else (1,):
            yield float((np.float32(label).view(np.int32) + np.int32(sign * step)).view(np.float32))


def fitted(wanted: Scales, x: Grid, y: Grid) -> tuple[Grid, Scales] | None:
    """Find scales of weights for which a kernel computes the codes that the multipliers ``wanted`` give.

    Args:
        wanted: one multiplier for each output channel.
        x: of the operand.
        y: of the result.

    Returns:
        The result's grid, whose label may be moved by some units in the last place, and the scales; None where there
        are none.
    """
    for label in neighbours(y.label, _TRIED if y.cut == "RELU_N1_TO_1" else 1):
        scales = _weight_scales(wanted, x.label, replace(y, label=label))
        if scales is not None:
            return replace(y, label=label), scales
    return None


def _weight_scales(wanted: Scales, x: float, y: Grid) -> Scales | None:
    """Scales of weights; None where for some channel there is none."""
    start = (wanted.astype(np.float64) * y.label / x).astype(np.float32)
    near = (start.view(np.int32)[:, None] + _NEAR).view(np.float32)
    made = near * np.float32(x) / np.float32(y.label)
    right = made == wanted[:, None]
    for channel in np.flatnonzero(~right.any(axis=1)):
        right[channel] = [_same_codes(wanted[channel], multiplier, y) for multiplier in made[channel]]
    if not right.any(axis=1).all():
        return None
    best: Scales = near[np.arange(len(near)), right.argmax(axis=1)]
    return best


def _same_codes(one: np.float32, two: np.float32, y: Grid) -> bool:
    """True where two multipliers give the same code for every sum: those beside the places where codes change tell."""
    changes = np.arange(LEAST - y.zero, MOST - y.zero, dtype=np.float64) + 0.5
    places = changes / np.float64(one)
    apart = np.maximum(np.spacing(np.abs(places).astype(np.float32)).astype(np.float64), 1.0)
    sums = np.rint(places[:, None] + apart[:, None] * np.arange(-4, 5)).astype(np.float32)
    return bool(np.array_equal(np.rint(sums * one), np.rint(sums * two)))

"""How far a runtime's outputs are from the integer model's, in steps of the outputs' grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qkd_deploy.export.targets.record import TargetRecord

MOST = 255
"""Steps of a whole grid; what has another shape or is no number is that far off."""
_ROWS = 2
"""Dimensions of the scores of classes."""
_LAST_BITS = 1e-6
"""Of the largest value: logits are sums of codes times a scale plus a bias, rounded in float32 in some order."""


@dataclass
class StepsOff:
    """Adds up differences over batches.

    Attributes:
        record: says what grids the outputs are on; steps of those on none are 255ths of their range.
        compared, differing: output values; those on no grid differ where more than their last bits do.
        worst: steps, at most.
        counts: values by the steps that they are off, 0 to 255.
        classified, agreeing: samples whose first output are scores of classes, and those of them of the same class.
    """

    record: TargetRecord
    compared: int = 0
    differing: int = 0
    worst: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(MOST + 1, np.int64))
    classified: int = 0
    agreeing: int = 0

    def add(self, expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> None:
        """Compare all outputs of a batch."""
        for end, mine, other in zip(self.record.outputs, expected, got, strict=True):
            steps = _steps(mine, np.asarray(other), end.scale)
            self.compared += steps.size
            self.differing += int(np.count_nonzero(steps) if end.scale is not None else _unequal(mine, other))
            self.worst = max(self.worst, int(steps.max(initial=0)))
            self.counts += np.bincount(steps.ravel(), minlength=MOST + 1)
        if len(expected) and expected[0].ndim == _ROWS and expected[0].shape == np.shape(got[0]):
            self.classified += len(expected[0])
            self.agreeing += int(np.count_nonzero(expected[0].argmax(1) == np.asarray(got[0]).argmax(1)))

    @property
    def agreement(self) -> float | None:
        """Percent of the samples that are given the same class; None where there are no classes."""
        return 100.0 * self.agreeing / self.classified if self.classified else None

    def in_words(self) -> str:
        """Say how many differ, and by how much."""
        by = (", by less than a step", ", by one step", f", by {self.worst} steps at most")[min(self.worst, 2)]
        return f"{self.differing:,} of {self.compared:,} output codes differ{by if self.differing else ''}"


def on_their_grids(record: TargetRecord, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs as the integer model writes their codes, whatever way the runtime multiplies by the scale."""
    pairs = [(np.asarray(output), end.scale) for end, output in zip(record.outputs, outputs, strict=True)]
    return [
        array if scale is None else whole_steps(array, scale).astype(np.float32) * np.float32(scale)
        for array, scale in pairs
    ]


def whole_steps(values: np.ndarray, scale: float) -> np.ndarray:
    """Values of an output in steps of its grid from where zero is, as float64."""
    return np.asarray(np.rint(values.astype(np.float64) / scale))


def _unequal(mine: np.ndarray, other: np.ndarray) -> int:
    """How many floats differ by more than what the order of a product and a sum does to their last bits."""
    if mine.shape != np.shape(other):
        return mine.size
    finite = np.abs(mine[np.isfinite(mine)])
    with np.errstate(invalid="ignore"):
        same = (mine == other) | (np.isnan(mine) & np.isnan(other))
        return int(np.count_nonzero(~same & ~(np.abs(mine - other) <= _LAST_BITS * finite.max(initial=0.0))))


def _steps(mine: np.ndarray, other: np.ndarray, scale: float | None) -> np.ndarray:
    """Whole steps between two arrays."""
    if mine.shape != other.shape:
        return np.full(mine.shape, MOST, np.int64)
    step = scale if scale is not None else max(float(np.ptp(mine)) if mine.size else 0.0, 1e-6) / MOST
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(mine.astype(np.float64) - other.astype(np.float64)) / step
    unequal = np.isnan(mine) != np.isnan(other)
    off = np.where(np.isnan(mine) & np.isnan(other) | (mine == other), 0.0, off)
    return np.where(unequal | ~np.isfinite(off), MOST, np.minimum(np.rint(off), MOST)).astype(np.int64)

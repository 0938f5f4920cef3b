"""Comparison of codes, tensor by tensor, with a memory of what differed first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qkd_deploy.verification.findings import FirstDifference

ALLOWED_FRACTION = 1e-5
ALLOWED_COUNT = 3


@dataclass
class CodesComparison:
    """Adds up differing codes over batches.

    ``compared`` and ``differing`` count codes that must be equal. ``loose`` is about those that a float operator or the
    float preview computed: by tensor, how many of how many differ away from ties, and by how many steps any does. One
    step is allowed at a tie, and in 1e-5 of the others, plus three.
    """

    order: list[str]
    modules: Mapping[str, str]
    compared: int = 0
    differing: int = 0
    first: FirstDifference | None = None
    loose: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def exact(self, between: str, left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> None:
        """Compare codes by tensor name, in graph order; a missing or misshapen tensor differs everywhere."""
        for name in self.order:
            if name in left or name in right:
                self._count(name, _difference(left.get(name), right.get(name)), between)

    def _count(self, name: str, found: tuple[int, int], between: str) -> None:
        count, size = found
        self.compared += size
        self.differing += count
        if count:
            self._note(name, count, between)

    def within_a_step(
        self, name: str, left: np.ndarray, right: np.ndarray, near_ties: np.ndarray | None = None
    ) -> None:
        """Compare codes that may differ by a rounding; judged by :meth:`exceeding` after the last batch.

        Args:
            name: of the tensor.
            left: its codes from one side.
            right: its codes from the other.
            near_ties: where it is true, either of two codes may be right.
        """
        count, size = _difference(left, right)
        step = 0
        if count:
            step = 256 if left.shape != right.shape else int(np.abs(left.astype(np.int16) - right).max())
            if near_ties is not None and near_ties.shape == left.shape == right.shape:
                count = int(np.count_nonzero((left != right) & ~near_ties))
        before = self.loose.get(name, (0, 0, 0))
        self.loose[name] = (before[0] + count, before[1] + size, max(before[2], step))

    def exceeding(self) -> list[str]:
        """Sentences about tensors whose loose comparison went beyond the tolerance."""
        sentences = []
        for name, (count, size, step) in self.loose.items():
            if count > ALLOWED_FRACTION * size + ALLOWED_COUNT or step > 1:
                module, many = self.modules.get(name, name), f"{count} of {size:,} codes" if count else "codes"
                sentences.append(f"{module}: {many} of {name} differ, by up to {step} steps")
        return sentences

    def _note(self, name: str, count: int, between: str) -> None:
        known = self.first
        if known is None or self.order.index(name) < self.order.index(known.tensor):
            self.first = FirstDifference(self.modules.get(name, name), name, count, between)


def _difference(left: np.ndarray | None, right: np.ndarray | None) -> tuple[int, int]:
    size = max(array.size for array in (left, right) if array is not None)
    if left is None or right is None or left.shape != right.shape:
        return size, size
    return int(np.count_nonzero(left != right)), size


def output_difference(left: np.ndarray, right: np.ndarray) -> float:
    """Largest difference relative to the largest magnitude; infinite where shapes or finiteness differ."""
    if left.shape != right.shape:
        return float("inf")
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    if same.all():
        return 0.0
    largest = float(np.abs(right).max())
    return float(np.abs(left - right).max()) / largest if largest > 0 and np.isfinite(largest) else float("inf")

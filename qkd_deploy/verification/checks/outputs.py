"""Outputs of the frozen model and of ONNX Runtime, each judged by itself: a model may have several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qkd_deploy.verification.compare import output_difference

FLOAT_TOLERANCE = 1e-4
"""Of an output's largest value, where float operators had a part in it."""
FLIP_TOLERANCE = 0.05
"""The same where a rounding behind a float operator may flip a code, which layers behind it amplify. The codes level
compares such layers one by one, on equal codes."""


@dataclass
class OutputsComparison:
    """Adds up differences over batches.

    Attributes:
        exact: by output name, in graph order: whether nothing in float has a part in it, so that all bits are equal.
        tolerance: of the other outputs, as a share of their range.
        samples: compared so far.
        differing: by output name, on how many samples it differs.
        largest: by output name, by how much of its range at most.
    """

    exact: Mapping[str, bool]
    tolerance: float
    samples: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def add(self, left: Sequence[np.ndarray], right: Sequence[np.ndarray], samples: int) -> None:
        """Compare all outputs of a batch of so many samples, of equal shapes and in graph order."""
        self.samples += samples
        for name, one, other in zip(self.exact, left, right, strict=True):
            unequal = (one != other) & ~(np.isnan(one) & np.isnan(other))
            count = int(np.atleast_1d(unequal).reshape(max(one.shape[:1], default=1), -1).any(axis=1).sum())
            self.differing[name] = self.differing.get(name, 0) + count
            self.largest[name] = max(self.largest.get(name, 0.0), output_difference(one, other))

    def problems(self, *, exact_only: bool = False) -> list[str]:
        """Sentences about outputs that differ by more than they may; of all, or of those that must be equal."""
        return [
            f"output {name} differs between frozen model and ONNX Runtime on {self.differing[name]} of {self.samples} "
            f"inputs, by {self.largest[name]:.2g} of its range at most"
            for name, exact in self.exact.items()
            if (self.differing.get(name) if exact else not exact_only and self.largest.get(name, 0) > self.tolerance)
        ]

    def summary(self) -> str:
        """A sentence about all outputs, where none differs by more than it may."""
        equal = [name for name in self.exact if not self.differing.get(name)]
        close = [f"{name} within {self.largest[name]:.2g} of its range" for name in self.exact if name not in equal]
        said = ([f"{', '.join(equal)} equal"] if equal else []) + close
        return f"outputs of frozen model and ONNX Runtime on {self.samples} inputs: {', '.join(said)}"

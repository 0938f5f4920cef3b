"""How the learning rate changes over a stretch of training."""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = (0.5, 0.75)
"""Where the "step" schedule divides the learning rate by ten, as shares of the stretch."""


@dataclass(frozen=True)
class Schedule:
    """A factor on all learning rates.

    Attributes:
        shape: "cosine" (half a cosine to 0), "step" (a tenth after 50 % and again after 75 %) or "constant".
        warmup: share of the stretch in which the factor rises from 0.
    """

    shape: str = "cosine"
    warmup: float = 0.0

    def factor(self, progress: float) -> float:
        """The factor at ``progress`` in [0, 1) of the stretch."""
        if progress < self.warmup:
            return progress / self.warmup
        if self.shape == "step":
            return float(0.1 ** sum(progress >= step for step in _STEPS))
        if self.shape == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))

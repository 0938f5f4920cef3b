"""LSQ (Esser et al. 2020, arXiv:1902.08153): the learned scale of ``step.py``, with its gradient scaled.

    v_q = s * clip(round(v / s), lo, hi)         dL/ds is multiplied by 1 / sqrt(N * hi)

``N`` is the number of weights, or of features of one sample for activations. The start is ``2 * mean|v| / sqrt(hi)``,
and the factor keeps the scale's relative updates of the size of those of the weights.
Deployable form: as published.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from qkd_deploy.quantizers.step import StepQuantizer


class LsqWeight(StepQuantizer):
    """Fake-quantize the weights of a layer."""

    initialization: ClassVar[str] = "lsq"

    def gradient_scale(self, v: Tensor) -> float:
        """Return ``1 / sqrt(N * hi)``, ``N`` being the number of weights."""
        return 1 / math.sqrt(max(v.numel(), 1) * self.spec.hi)


class LsqActivation(StepQuantizer):
    """Fake-quantize an activation, batch first."""

    initialization: ClassVar[str] = "lsq"

    def gradient_scale(self, v: Tensor) -> float:
        """Return ``1 / sqrt(N * hi)``, ``N`` being the number of features of a sample."""
        return 1 / math.sqrt(max(v.numel() // max(v.shape[0], 1), 1) * self.spec.hi)

"""LSQ (Esser et al. 2020, arXiv:1902.08153): the learned scale of ``step.py``, with its own start.

    v_q = s * clip(round(v / s), lo, hi)

The start is ``2 * mean|v| / sqrt(hi)``. Published is also a factor ``1 / sqrt(N * hi)`` on the gradient of ``s``, which
keeps the scale's relative updates of the size of those of the weights. Here what is learned is the relative movement
itself (``learned_range.py``), whose gradient needs no such factor.
Deployable form: as published.
"""

from __future__ import annotations

from typing import ClassVar

from qkd_deploy.quantizers.step import StepQuantizer


class LsqQuantizer(StepQuantizer):
    """Fake-quantize weights or an activation."""

    initialization: ClassVar[str] = "lsq"

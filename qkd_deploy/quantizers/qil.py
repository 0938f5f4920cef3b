"""QIL (Jung et al. 2019, arXiv:1808.05779): a learned interval of magnitudes, which prunes below and clips above.

With centre ``c`` and half-width ``d``, so that ``p = c - d`` prunes and ``u = c + d`` clips (``gamma = 1``):

    w_t = sign(w) * clip(A |w| + B, 0, 1),   A = 1 / (2d),  B = -c / (2d) + 1/2
    w_q = round(hi * w_t) / hi

Gradients come from autograd through the transformation, with STE through the rounding. There is no gradient scale:
ranges learn relative to their size (``learned_range.py``). The exponent ``gamma`` is not learned, which others found
unstable.

Deployable form:

    weights      w_q = u * round(hi * w_t) / hi, with p held at or above 0
    activations  x_q = u * clip(round(hi * x / u), lo, hi) / hi,  u = 2d

so values keep their units (published ones fill [-1, 1], and batch norm rescales them), and activations are not pruned:
an offset of the activations that is no multiple of the scale has no integer zero point.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from qkd_deploy.bits import SCALE_FLOOR, TensorSpec
from qkd_deploy.quantizers.base import Quantizer, along_channels, round_straight_through
from qkd_deploy.quantizers.learned_range import LearnedRange
from qkd_deploy.quantizers.step import fake_quantize


class QilWeight(Quantizer):
    """Fake-quantize weights with a learned centre and half-width."""

    difference: ClassVar[str] = "weights keep their units, where the published ones fill [-1, 1]"

    def __init__(self, spec: TensorSpec, channels: int | None = None) -> None:
        """Start with the interval [0, 1]."""
        super().__init__(spec, channels)
        self.center = LearnedRange(0.5, channels)
        self.half_width = LearnedRange(0.5, channels)

    def scale(self) -> Tensor:
        """Return ``(c + d) / hi``."""
        return ((self.center.value() + self.half_width.value()) / self.spec.hi).clamp(min=SCALE_FLOOR)

    def set_scale(self, value: float | Tensor) -> None:
        """Set the interval to ``[0, value * hi]``: clip at its end, and prune nothing."""
        self.center.set(value * self.spec.hi / 2)
        self.half_width.set(value * self.spec.hi / 2)

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Transform and round; the sign and the scale are put back behind the rounding."""
        return round_straight_through(self._transformed(v)) * v.sign() * along_channels(self.scale(), v)

    def codes(self, v: Tensor) -> Tensor:
        """Return the centered codes of the weights."""
        with torch.no_grad():
            return torch.round(self._transformed(v.float())) * v.sign()

    def _transformed(self, v: Tensor) -> Tensor:
        """Compute ``hi * |w_t|``: from 0 at the pruning point to ``hi`` at the clipping point."""
        center, half_width = self.center.value(), self.half_width.value()
        prune = (center - half_width).clamp(min=0)
        width = (center + half_width - prune).clamp(min=SCALE_FLOOR)
        return ((v.abs() - along_channels(prune, v)) / along_channels(width, v)).clamp(0, 1) * self.spec.hi


class QilActivation(Quantizer):
    """Fake-quantize activations with a learned half-width, which is also the centre."""

    difference: ClassVar[str] = (
        "activations keep their units and are not pruned, which would need a zero point that is no integer"
    )

    def __init__(self, spec: TensorSpec) -> None:
        """Start with the interval [0, 1]."""
        super().__init__(spec)
        self.half_width = LearnedRange(0.5)

    def scale(self) -> Tensor:
        """Return ``2d / hi``."""
        return (2 * self.half_width.value() / self.spec.hi).clamp(min=SCALE_FLOOR)

    def set_scale(self, value: float | Tensor) -> None:
        """Set the interval to ``[0, value * hi]``."""
        self.half_width.set(value * self.spec.hi / 2)

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Clip and round, with the gradients of ``step.py``."""
        return fake_quantize(v, self.scale(), self.spec.lo, self.spec.hi)

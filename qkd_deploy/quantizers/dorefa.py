"""DoReFa (Zhou et al. 2016, arXiv:1606.06160): no learned range.

Published, with STE through the rounding and autograd through everything else:

    weights      w_q = 2 * round(w_n * (2^b - 1)) / (2^b - 1) - 1,   w_n = tanh(w) / (2 max|tanh(w)|) + 1/2
    activations  y_q = round(clip(x, 0, 1) * (2^b - 1)) / (2^b - 1)

Deployable form:

    weights      w_q = s * round(hi * tanh(w) / max|tanh(w)|)
    activations  y_q = s * clip(round(x / s), lo, hi)

with a constant ``s``. The published weights lie on a grid without zero (``+-1/3, +-1`` at two bits), for which a
symmetric integer type has no codes; here the grid is symmetric around zero. The published values are bounded by 1
whatever the tensor; that is ``s = 1 / hi``, which a fresh quantizer has. ``initialize`` replaces it: weights keep their
size, which batch norm cancels and layers without one need, and activations of pre-trained networks, sums of residuals
and signed tensors keep their range. With one scale per output channel, the largest is that of the channel.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from qkd_deploy.bits import SCALE_FLOOR, TensorSpec
from qkd_deploy.quantizers.base import Quantizer, along_channels, round_straight_through
from qkd_deploy.quantizers.step import fake_quantize, total_like


class _ConstantScale(Quantizer):
    step: Tensor

    def __init__(self, spec: TensorSpec, channels: int | None = None) -> None:
        """Start at the published bound, 1."""
        super().__init__(spec, channels)
        self.register_buffer("step", torch.full(() if channels is None else (channels,), 1.0 / spec.hi))

    def ranges(self) -> list[Tensor]:
        """Return the constant."""
        return [self.step]

    def is_unset(self) -> bool:
        """Tell whether the constant is still the published one."""
        return bool((self.step == 1.0 / self.spec.hi).all())

    def scale(self) -> Tensor:
        """Return the constant."""
        return self.step.clamp(min=SCALE_FLOOR)

    def set_scale(self, value: float | Tensor) -> None:
        """Set the constant."""
        self.step.copy_(torch.as_tensor(value))


class DoReFaActivation(_ConstantScale):
    """Clip an activation to a constant range."""

    difference: ClassVar[str] = (
        "activations are clipped at a constant of the tensor instead of 1, signed ones at both ends of the signed grid"
    )

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Clip and round; STE."""
        return fake_quantize(v, self.scale(), self.spec.lo, self.spec.hi)


class DoReFaWeight(_ConstantScale):
    """Squeeze weights by tanh and divide them by their largest magnitude."""

    difference: ClassVar[str] = (
        "the weights' grid is symmetric and has a zero, which the published grid lacks; "
        "a constant of the layer keeps their size, where the published ones fill [-1, 1]"
    )

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Round the squeezed weights to codes; autograd goes through tanh and the division by the largest."""
        return round_straight_through(self._squeezed(v)).float() * along_channels(self.scale(), v)

    def codes(self, v: Tensor) -> Tensor:
        """Return the centered codes of the weights."""
        with torch.no_grad():
            return torch.round(self._squeezed(v.float())).float()

    def _squeezed(self, v: Tensor) -> Tensor:
        # tanh is no IEEE operation; in float64 its last bits, which differ between machines, are far from any rounding
        squeezed = torch.tanh(v.double())
        magnitudes = squeezed.abs()
        largest = magnitudes.max() if self.channels is None else magnitudes.flatten(1).amax(1)
        return squeezed / along_channels(largest.clamp(min=1e-30), v) * self.spec.hi

    @torch.no_grad()
    def start(self, v: Tensor, method: str = "auto") -> float | Tensor:
        """Choose the constant with the least squared error for the codes, which do not depend on it.

        It is ``sum(codes * v) / sum(codes^2)``; ``method`` only decides where all codes are zero.
        """
        usual = torch.as_tensor(super().start(v, method))
        codes = self.codes(v)
        energy = total_like(self.step, codes, codes)
        return torch.where(energy > 0, total_like(self.step, codes, v) / energy, usual)

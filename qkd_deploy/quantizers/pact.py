"""PACT (Choi et al. 2018, arXiv:1805.06085): activations with a learned clipping point ``alpha``.

    y = clip(x, 0, alpha)        y_q = s * round(y / s),  s = alpha / hi
    dy_q/dx     = 1 where 0 <= x < alpha, else 0
    dy_q/dalpha = 1 where x >= alpha, else 0

The paper adds an L2 penalty on ``alpha`` to the loss, which alone moves a clipping point beyond all values. Its
gradient ``DECAY * alpha`` is added in the backward pass; the paper's coefficient is not known to us, ``DECAY`` is ours.
Weights are those of DoReFa (``dorefa.py``), as published.

Deployable form: as published after a ReLU. Signed tensors, which the paper lacks, are clipped at both ends of the
signed grid, ``[lo * s, hi * s]``, with ``dy_q/dalpha = lo / hi`` at the lower end.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from qkd_deploy.bits import SCALE_FLOOR, TensorSpec
from qkd_deploy.quantizers.base import Quantizer
from qkd_deploy.quantizers.learned_range import LearnedRange
from qkd_deploy.quantizers.step import to_grid

DECAY = 1e-4
"""Weight of the L2 penalty on the clipping point, as a gradient ``DECAY * alpha``; the usual weight decay."""


class _Pact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, alpha: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
        ctx.save_for_backward(v, alpha, scale)
        ctx.lo, ctx.hi = lo, hi
        return to_grid(v, scale, lo, hi)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad,) = grads
        v, alpha, scale = ctx.saved_tensors
        above, below = v >= alpha, v < ctx.lo * scale
        clipped = torch.sum(grad * above) + ctx.lo / ctx.hi * torch.sum(grad * below)
        return grad.masked_fill(above | below, 0.0), clipped + DECAY * alpha, None, None, None


class PactActivation(Quantizer):
    """Fake-quantize an activation with a learned clipping point."""

    difference: ClassVar[str] = "signed activations, which the paper lacks, are clipped at both ends of the signed grid"

    def __init__(self, spec: TensorSpec) -> None:
        """Start at the clipping point 6."""
        super().__init__(spec)
        self.alpha = LearnedRange(6.0)

    def scale(self) -> Tensor:
        """Return ``alpha / hi``."""
        return (self.alpha.value() / self.spec.hi).clamp(min=SCALE_FLOOR)

    def set_scale(self, value: float | Tensor) -> None:
        """Set the clipping point to ``value * hi``."""
        self.alpha.set(value * self.spec.hi)

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Clip and round; the gradient of ``alpha`` comes from clipped values and the penalty, none from the scale."""
        result: Tensor = _Pact.apply(  # type: ignore[no-untyped-call]
            v, self.alpha.value(), self.scale().detach(), self.spec.lo, self.spec.hi
        )
        return result

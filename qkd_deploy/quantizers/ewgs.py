"""EWGS (Lee, Kim, Ham 2021, arXiv:2104.00903), the quantizer of SQAKD (Zhao & Zhao 2024, arXiv:2403.11106).

With the tensor normalised to its learned range and clipped, ``x_c`` in [0, 1], and discretised to ``x_q``:

    dL/dx_c = g * (1 + delta * sign(g) * (x_c - x_q)) = g + delta * |g| * (x_c - x_q),     g = dL/dx_q

``delta >= 0`` is one number per tensor, from ``ewgs_refresh.py``; 0 gives the straight-through estimator. The gradient
of the range follows from autograd through normalisation, clipping and back to the tensor's units.

Deployable form:

    v_q = s * clip(round(v / s), lo, hi),  s = u / hi

Published are two learned ends ``l`` and ``u``; an integer zero point needs ``l = 0`` after a ReLU and a symmetric range
elsewhere, so that ``u`` alone is learned. Published are also normalised values, with a learned factor behind the
convolution instead of the way back to the tensor's units; integers carry their scale, which makes the factor redundant.
Activations start as published. Weights start from the least squared error: their published start, three standard
deviations, is meant for a grid without zero, and would leave nine in ten 2-bit weights at zero here.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from qkd_deploy.bits import SCALE_FLOOR, TensorSpec
from qkd_deploy.quantizers.base import Quantizer, along_channels
from qkd_deploy.quantizers.learned_range import LearnedRange
from qkd_deploy.quantizers.step import to_grid


class _Ewgs(torch.autograd.Function):
    """Round to the grid; backward scales gradients element by element.

    The backward pass is made of differentiable operations on detached tensors, because ``ewgs_refresh.py``
    differentiates it again: masks and rounding errors are constants there.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, scale: Tensor, delta: Tensor, lo: int, hi: int) -> Tensor:
        result = to_grid(v, along_channels(scale, v), lo, hi)
        ctx.save_for_backward(v, scale, delta, result)
        ctx.lo, ctx.hi = lo, hi
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (grad,) = grads
        v, scale, delta, result = (tensor.detach() for tensor in ctx.saved_tensors)
        step = along_channels(scale, v)
        inside = (v >= ctx.lo * step) & (v <= ctx.hi * step)
        error = (v - result) * (delta / (step * (ctx.hi - ctx.lo)))  # delta * (x_c - x_q)
        grad_v = torch.where(inside, grad + grad.abs() * error, 0.0)
        grad_scale = None
        if ctx.needs_input_grad[1]:
            terms = grad * result - grad_v * v
            grad_scale = (terms.sum() if scale.dim() == 0 else terms.flatten(1).sum(1)) / scale
        return grad_v, grad_scale, None, None, None


class EwgsQuantizer(Quantizer):
    """Fake-quantize with a learned range ``u``, and gradients scaled element by element."""

    difference: ClassVar[str] = (
        "the range has one learned end instead of two ([0, u] after a ReLU, symmetric elsewhere), "
        "and values keep their units, so that the learned output factor is dropped"
    )
    delta: Tensor

    def __init__(self, spec: TensorSpec, channels: int | None = None) -> None:
        """Start at the upper end 1 with ``delta = 0``."""
        super().__init__(spec, channels)
        self.upper = LearnedRange(1.0, channels)
        self.register_buffer("delta", torch.tensor(0.0))

    def scale(self) -> Tensor:
        """Return ``u / hi``."""
        return (self.upper.value() / self.spec.hi).clamp(min=SCALE_FLOOR)

    def set_scale(self, value: float | Tensor) -> None:
        """Put the upper end at ``value * hi``."""
        self.upper.set(value * self.spec.hi)

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Round to the grid, with the gradients of the module's docstring."""
        result: Tensor = _Ewgs.apply(  # type: ignore[no-untyped-call]
            v, self.scale(), self.delta, self.spec.lo, self.spec.hi
        )
        return result


class EwgsActivation(EwgsQuantizer):
    """EWGS on an activation, with its published start."""

    @torch.no_grad()
    def start(self, v: Tensor, method: str = "auto") -> float | Tensor:
        """Choose the scale; "auto" puts ``u`` at three standard deviations, as published.

        They are those of the tensor, or, on an unsigned grid, of the normal distribution whose magnitudes the tensor
        holds: its deviation is that of the tensor divided by ``sqrt(1 - 2 / pi)``.
        """
        usual = super().start(v, method)
        deviation = float(v.float().std(correction=0)) if v.numel() else 0.0
        if method != "auto" or deviation == 0.0:
            return usual
        half_normal = 1.0 if self.spec.signed else math.sqrt(1 - 2 / math.pi)
        return max(3 * deviation / half_normal / self.spec.hi, SCALE_FLOOR)

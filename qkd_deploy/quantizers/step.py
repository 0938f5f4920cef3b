"""The learned-scale quantizer of QKD, and of LSQ but for its gradient scale.

Forward: ``q = clip(round(v / s), lo, hi)``, ``v_q = q * s``, with a true float32 division and rounding half to even,
so that training sees the codes that deployment computes. ``s`` is the scale, which the papers call step; QKD's interval
is ``I = s * hi``. Backward (Esser et al. 2020, arXiv:1902.08153; Kim et al. 2019, arXiv:1911.12491), with the
straight-through estimator inside the rounding:

    dv_q/dv = 1 where lo <= v/s <= hi, else 0
    dv_q/ds = q - v/s where lo <= v/s <= hi, else lo or hi
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qkd_deploy.bits import SCALE_FLOOR, TensorSpec
from qkd_deploy.quantizers.base import Quantizer


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, scale: Tensor, lo: int, hi: int, gradient_scale: float) -> Tensor:
        result = to_grid(v, scale, lo, hi)
        # the next layer saves the result as well, so that this costs no memory
        ctx.save_for_backward(v, result, scale)
        ctx.lo, ctx.hi, ctx.gradient_scale = lo, hi, gradient_scale
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,) = grads
        v, result, scale = ctx.saved_tensors
        grad_v = pass_inside(grad, v, scale, ctx.lo, ctx.hi)
        grad_scale = None
        if ctx.needs_input_grad[1]:
            # sum(grad * q) - sum(grad * v/s inside), with q = result / s: two passes over memory, and q is not stored
            total = dot(grad, result) - dot(grad_v, v)
            grad_scale = (total / scale * ctx.gradient_scale).reshape(scale.shape)
        return grad_v, grad_scale, None, None, None


def to_grid(v: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Round ``v`` to ``clip(round(v / s), lo, hi) * s``, without a gradient of its own."""
    if torch.compiler.is_compiling():
        # compilers fuse by themselves, and PyTorch 2.11's loses all gradients behind a forward pass that works in place
        return torch.div(v, scale).round().clamp(lo, hi).mul(scale)
    return torch.div(v, scale).round_().clamp_(lo, hi).mul_(scale)


def pass_inside(grad: Tensor, v: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Pass the gradient where ``lo * s <= v <= hi * s``; it is zero elsewhere."""
    if v.is_cpu and not torch.compiler.is_compiling():
        # One fused pass instead of four, and reading the scale costs nothing on a CPU. The kernel's bounds are
        # exclusive: the float32 numbers next to the ends, outwards, let the ends themselves pass.
        with np.errstate(over="ignore", invalid="ignore"):  # a scale that diverged shows in the loss, with advice
            bounds = scale.detach().numpy() * np.array([lo, hi], np.float32)
        low, high = np.nextafter(bounds, np.array([-np.inf, np.inf], np.float32)).tolist()
        return torch.ops.aten.hardtanh_backward(grad, v, low, high)  # type: ignore[no-any-return]
    return grad * ((v >= lo * scale) & (v <= hi * scale))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum the products of two tensors; on CPUs in one pass over memory, where both are dense in the same order."""
    if a.is_cpu and a.stride() == b.stride() and not torch.compiler.is_compiling():
        if a.is_contiguous():
            return a.reshape(-1).dot(b.reshape(-1))
        if a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last):
            return a.permute(0, 2, 3, 1).reshape(-1).dot(b.permute(0, 2, 3, 1).reshape(-1))
    return torch.sum(a * b)


def fake_quantize(v: Tensor, scale: Tensor, lo: int, hi: int, gradient_scale: float = 1.0) -> Tensor:
    """Round ``v`` to the grid ``{lo, ..., hi} * scale``; gradients as in the module's docstring.

    Args:
        v: any shape, float32.
        scale: scalar, positive.
        lo: smallest centered code.
        hi: largest centered code.
        gradient_scale: factor on the scale's gradient (LSQ uses ``1 / sqrt(numel * hi)``).
    """
    result: Tensor = _FakeQuantize.apply(v, scale, lo, hi, gradient_scale)  # type: ignore[no-untyped-call]
    return result


class StepQuantizer(Quantizer):
    """Fake-quantize a tensor with one learned scale.

    The scale is the ``nn.Parameter`` ``step`` (its name in checkpoints) of shape ``[]`` in the units of the tensor. It
    is 1 until ``initialize`` or a checkpoint sets it. A fixed quantizer (``learnable=False``) keeps it out of training,
    as for raw pixels.
    """

    def __init__(self, spec: TensorSpec, *, step: float = 1.0, learnable: bool = True) -> None:
        """Start at the scale ``step`` on the grid ``spec``."""
        super().__init__(spec)
        self.fixed = not learnable
        self.step = nn.Parameter(torch.tensor(step, dtype=torch.float32), requires_grad=learnable)

    def ranges(self) -> list[Tensor]:
        """Return the parameter ``step``."""
        return [self.step]

    def scale(self) -> Tensor:
        """Return the scale that is used: positive and finite whatever an optimizer did to the parameter."""
        return self.step.clamp(min=SCALE_FLOOR)

    @torch.no_grad()
    def set_scale(self, value: float) -> None:
        """Set the parameter ``step``."""
        self.step.fill_(value)

    def gradient_scale(self, v: Tensor) -> float:
        """Return the factor on the scale's gradient for the tensor ``v``."""
        return 1.0

    def contains(self, clip: tuple[float, float] | None) -> bool:
        """Say if a clip in front changes neither codes nor gradients: a ReLU in front of a grid that starts at 0."""
        return clip is None or (clip == (0.0, math.inf) and self.spec.lo == 0)

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Clip and round; gradients as in the module's docstring."""
        return fake_quantize(v, self.scale(), self.spec.lo, self.spec.hi, self.gradient_scale(v))

"""The learned-scale quantizer of QKD, and of LSQ but for its gradient scale.

Forward: ``q = clip(round(v / s), lo, hi)``, ``v_q = q * s``, with a true float32 division and rounding half to even,
so that training sees the codes that deployment computes. ``s`` is the scale, which the papers call step; QKD's interval
is ``I = s * hi``. Backward (Esser et al. 2020, arXiv:1902.08153; Kim et al. 2019, arXiv:1911.12491), with the
straight-through estimator inside the rounding:

    dv_q/dv = 1 where lo <= v/s <= hi, else 0
    dv_q/ds = q - v/s where lo <= v/s <= hi, else lo or hi

With one scale per output channel, the second is summed over the weights of the channel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkd_deploy.bits import SCALE_FLOOR, TensorSpec
from qkd_deploy.quantizers.base import Quantizer, along_channels
from qkd_deploy.quantizers.learned_range import LearnedRange


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
        result = to_grid(v, along_channels(scale, v), lo, hi)
        # the next layer saves the result as well, so that this costs no memory
        ctx.save_for_backward(v, result, scale)
        ctx.lo, ctx.hi = lo, hi
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        v, result, scale = ctx.saved_tensors
        grad_v = pass_inside(grad, v, along_channels(scale, v), ctx.lo, ctx.hi)
        grad_scale = None
        if ctx.needs_input_grad[1]:
            # sum(grad * q) - sum(grad * v/s inside), with q = result / s: two passes over memory, and q is not stored
            grad_scale = (total_like(scale, grad, result) - total_like(scale, grad_v, v)) / scale
        return grad_v, grad_scale, None, None


def to_grid(v: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Round ``v`` to ``clip(round(v / s), lo, hi) * s``, without a gradient of its own."""
    if torch.compiler.is_compiling():
        # compilers fuse by themselves, and PyTorch 2.11's loses all gradients behind a forward pass that works in place
        return torch.div(v, scale).round().clamp(lo, hi).mul(scale)
    return torch.div(v, scale).round_().clamp_(lo, hi).mul_(scale)


def pass_inside(grad: Tensor, v: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Pass the gradient where ``lo * s <= v <= hi * s``; it is zero elsewhere. ``scale`` broadcasts over ``v``."""
    if v.is_cpu and scale.dim() == 0 and not torch.compiler.is_compiling():
        # One fused pass instead of four, and reading the scale costs nothing on a CPU. The kernel's bounds are
        # exclusive: the float32 numbers next to the ends, outwards, let the ends themselves pass.
        with np.errstate(over="ignore", invalid="ignore"):  # a scale that diverged shows in the loss, with advice
            bounds = scale.detach().numpy() * np.array([lo, hi], np.float32)
        low, high = np.nextafter(bounds, np.array([-np.inf, np.inf], np.float32)).tolist()
        return torch.ops.aten.hardtanh_backward(grad, v, low, high)  # type: ignore[no-any-return]
    return grad * ((v >= lo * scale) & (v <= hi * scale))


def total_like(scale: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sum the products of two tensors: all of them for a single scale, those of each channel for one per channel."""
    return dot(a, b).reshape(()) if scale.dim() == 0 else (a * b).flatten(1).sum(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum the products of two tensors; on CPUs in one pass over memory, where both are dense in the same order."""
    if a.is_cpu and a.stride() == b.stride() and not torch.compiler.is_compiling():
        if a.is_contiguous():
            return a.reshape(-1).dot(b.reshape(-1))
        if a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last):
            return a.permute(0, 2, 3, 1).reshape(-1).dot(b.permute(0, 2, 3, 1).reshape(-1))
    return torch.sum(a * b)


def fake_quantize(v: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Round ``v`` to the grid ``{lo, ..., hi} * scale``; gradients as in the module's docstring.

    Args:
        v: any shape, float32.
        scale: positive, a scalar or one value per output channel, shape ``[C]``.
        lo: smallest centered code.
        hi: largest centered code.
    """
    result: Tensor = _FakeQuantize.apply(v, scale, lo, hi)  # type: ignore[no-untyped-call]
    return result


class StepQuantizer(Quantizer):
    """Fake-quantize a tensor with one learned scale, or with one per output channel.

    The scale is the range ``step``, in the units of the tensor. It is 1 until ``initialize`` or a checkpoint sets it. A
    fixed quantizer (``learnable=False``) keeps it out of training, as for raw pixels.
    """

    def __init__(
        self, spec: TensorSpec, channels: int | None = None, *, step: float = 1.0, learnable: bool = True
    ) -> None:
        """Start at the scale ``step`` on the grid ``spec``."""
        super().__init__(spec, channels)
        self.fixed = not learnable
        self.step = LearnedRange(step, channels, learnable=learnable)

    def scale(self) -> Tensor:
        """Return the scale that is used: positive whatever an optimizer did to it."""
        return self.step.value().clamp(min=SCALE_FLOOR)

    def set_scale(self, value: float | Tensor) -> None:
        """Set the range ``step``."""
        self.step.set(value)

    def contains(self, clip: tuple[float, float] | None) -> bool:
        """Say if a clip in front changes neither codes nor gradients: a ReLU in front of a grid that starts at 0."""
        return clip is None or (clip == (0.0, math.inf) and self.spec.lo == 0)

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Clip and round; gradients as in the module's docstring."""
        return fake_quantize(v, self.scale(), self.spec.lo, self.spec.hi)

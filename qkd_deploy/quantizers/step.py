"""The learnable-step quantizer of QKD and LSQ.

Forward: ``q = clip(round(v / s), lo, hi)``, ``v_q = q * s``, with a true float32 division and rounding half to even,
so that training sees the codes that deployment computes. ``s`` is the step; the paper's interval is ``I = s * hi``.
Backward (Esser et al. 2020, arXiv:1902.08153; Kim et al. 2019, arXiv:1911.12491), with the straight-through estimator
inside the rounding:

    dv_q/dv = 1 where lo <= v/s <= hi, else 0
    dv_q/ds = q - v/s where lo <= v/s <= hi, else lo or hi
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qkd_deploy.bits import STEP_FLOOR, TensorSpec
from qkd_deploy.quantizers.base import Quantizer


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, lo: int, hi: int, gradient_scale: float) -> Tensor:
        result = to_grid(v, step, lo, hi)
        # the next layer saves the result as well, so that this costs no memory
        ctx.save_for_backward(v, result, step)
        ctx.lo, ctx.hi, ctx.gradient_scale = lo, hi, gradient_scale
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,) = grads
        v, result, step = ctx.saved_tensors
        grad_v = pass_inside(grad, v, step, ctx.lo, ctx.hi)
        grad_step = None
        if ctx.needs_input_grad[1]:
            # sum(grad * q) - sum(grad * v/s inside), with q = result / s
            total = dot(grad, result) - dot(grad_v, v)
            grad_step = (total / step * ctx.gradient_scale).reshape(step.shape)
        return grad_v, grad_step, None, None, None


def to_grid(v: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    """``clip(round(v / s), lo, hi) * s``, without a gradient of its own."""
    if torch.compiler.is_compiling():
        # compilers fuse by themselves, and PyTorch 2.11's loses all gradients behind a forward pass that works in place
        return torch.div(v, step).round().clamp(lo, hi).mul(step)
    return torch.div(v, step).round_().clamp_(lo, hi).mul_(step)


def pass_inside(grad: Tensor, v: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    """The gradient where ``lo * s <= v <= hi * s``, zero elsewhere."""
    if v.is_cpu and not torch.compiler.is_compiling():
        # one fused pass instead of four; its bounds are exclusive, and reading the step costs nothing on a CPU
        with np.errstate(over="ignore", invalid="ignore"):  # a step that diverged shows in the loss, with advice
            bounds = step.detach().numpy() * np.array([lo, hi], np.float32)
        low, high = np.nextafter(bounds, np.array([-np.inf, np.inf], np.float32)).tolist()
        return torch.ops.aten.hardtanh_backward(grad, v, low, high)  # type: ignore[no-any-return]
    return grad * ((v >= lo * step) & (v <= hi * step))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products. On CPUs one pass over memory, where both tensors are dense in the same order."""
    if a.is_cpu and a.stride() == b.stride() and not torch.compiler.is_compiling():
        if a.is_contiguous():
            return a.reshape(-1).dot(b.reshape(-1))
        if a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last):
            return a.permute(0, 2, 3, 1).reshape(-1).dot(b.permute(0, 2, 3, 1).reshape(-1))
    return torch.sum(a * b)


def fake_quantize(v: Tensor, step: Tensor, lo: int, hi: int, gradient_scale: float = 1.0) -> Tensor:
    """Round ``v`` to the grid ``{lo, ..., hi} * step``; gradients as in the module's docstring.

    Args:
        v: any shape, float32.
        step: scalar, positive.
        lo: smallest centered code.
        hi: largest centered code.
        gradient_scale: factor on the step's gradient (LSQ uses ``1 / sqrt(numel * hi)``).
    """
    result: Tensor = _FakeQuantize.apply(v, step, lo, hi, gradient_scale)  # type: ignore[no-untyped-call]
    return result


class StepQuantizer(Quantizer):
    """A fake quantizer with one learned step per tensor.

    ``step`` is an ``nn.Parameter`` of shape ``[]`` in the units of the tensor. It is 1 until ``initialize`` or a
    checkpoint sets it. A fixed quantizer (``learnable=False``) keeps its step out of training, as for raw pixels.
    """

    def __init__(self, spec: TensorSpec, *, step: float = 1.0, learnable: bool = True) -> None:
        """Start at ``step`` on the grid ``spec``."""
        super().__init__(spec)
        self.fixed = not learnable
        self.step = nn.Parameter(torch.tensor(step, dtype=torch.float32), requires_grad=learnable)

    def ranges(self) -> list[Tensor]:
        """The step."""
        return [self.step]

    def scale(self) -> Tensor:
        """The step that is used: positive and finite whatever an optimizer did to the parameter. Shape ``[]``."""
        return self.step.clamp(min=STEP_FLOOR)

    @torch.no_grad()
    def set_scale(self, value: float) -> None:
        """Set the step."""
        self.step.fill_(value)

    def gradient_scale(self, v: Tensor) -> float:
        """The factor on the step's gradient for the tensor ``v``."""
        return 1.0

    def contains(self, clip: tuple[float, float] | None) -> bool:
        """Whether a clip in front changes neither codes nor gradients: a ReLU in front of a grid that starts at 0."""
        return clip is None or (clip == (0.0, math.inf) and self.spec.lo == 0)

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Clip and round; gradients as in the module's docstring."""
        return fake_quantize(v, self.scale(), self.spec.lo, self.spec.hi, self.gradient_scale(v))

"""The learnable-step quantizer of QKD and LSQ.

Forward: ``q = clip(round(v / s), lo, hi)``, ``v_q = q * s``, with a true float32 division and rounding half to even,
so that training sees the codes that deployment computes. ``s`` is the step; the paper's interval is ``I = s * hi``.
Backward (Esser et al. 2020, arXiv:1902.08153; Kim et al. 2019, arXiv:1911.12491), with the straight-through estimator
inside the rounding:

    dv_q/dv = 1 where lo <= v/s <= hi, else 0
    dv_q/ds = q - v/s where lo <= v/s <= hi, else lo or hi
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.bits import TensorSpec

STEP_FLOOR = 1e-8
"""Smallest step: keeps ``v / s`` finite for any float32 activation that occurs in a network."""


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, lo: int, hi: int, gradient_scale: float) -> Tensor:
        codes = torch.round(v / step).clamp_(lo, hi)
        ctx.save_for_backward(v, step)
        ctx.lo, ctx.hi, ctx.gradient_scale = lo, hi, gradient_scale
        return codes.mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,) = grads
        v, step = ctx.saved_tensors
        scaled = v / step
        codes = torch.round(scaled).clamp_(ctx.lo, ctx.hi)
        inside = (scaled >= ctx.lo) & (scaled <= ctx.hi)
        grad_v = grad * inside
        grad_step = None
        if ctx.needs_input_grad[1]:
            # inside: q - v/s; outside: q (= lo or hi)
            grad_step = (torch.sum(grad * codes) - torch.sum(grad_v * scaled)).reshape(step.shape) * ctx.gradient_scale
        return grad_v, grad_step, None, None, None


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


class StepQuantizer(nn.Module):
    """A fake quantizer with one learned step per tensor.

    ``step`` is an ``nn.Parameter`` of shape ``[]`` in the units of the tensor. It is 1 until ``initialize`` or a
    checkpoint sets it. A fixed quantizer (``learnable=False``) keeps its step out of training, as for raw pixels.
    """

    def __init__(self, spec: TensorSpec, *, step: float = 1.0, learnable: bool = True) -> None:
        """Start at ``step`` on the grid ``spec``."""
        super().__init__()
        self.spec = spec
        self.step = nn.Parameter(torch.tensor(step, dtype=torch.float32), requires_grad=learnable)

    def scale(self) -> Tensor:
        """The step that is used: positive and finite whatever an optimizer did to the parameter. Shape ``[]``."""
        return self.step.clamp(min=STEP_FLOOR)

    def forward(self, v: Tensor) -> Tensor:
        """Fake-quantize a tensor of any shape; autocast is left, because codes need float32."""
        with torch.autocast(v.device.type, enabled=False):
            return fake_quantize(v.float(), self.scale(), self.spec.lo, self.spec.hi)

    def codes(self, v: Tensor) -> Tensor:
        """Centered codes of a tensor as float32 integers, same shape, without gradient."""
        with torch.no_grad():
            return torch.round(v.float() / self.scale()).clamp_(self.spec.lo, self.spec.hi)

    def extra_repr(self) -> str:
        """Bits, signedness and step for ``print``."""
        sign = "signed" if self.spec.signed else "unsigned"
        return f"{self.spec.bits} bits {sign}, codes {self.spec.lo}..{self.spec.hi}, step {self.step.item():.4g}"

"""Join a batch norm and the learned-scale quantizer behind it into one operation, which stores less for backward.

``v = gamma * xhat + beta``, ``v_q = q(v)``. Apart, the two keep ``x``, ``v`` and ``v_q`` for the backward pass; joined,
they keep ``x``. ``v`` is computed again, by the same kernel from the same numbers, and the products of the scale's
gradient (``step.py``) come from gradients that the batch norm computes anyway:

    sum(g * v) = sum(gamma * dL/dgamma) + sum(beta * dL/dbeta),  because dL/dgamma = sum(g * xhat), dL/dbeta = sum(g)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.quantizers.step import StepQuantizer, dot, pass_inside

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _NormalizeAndQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        scale: Tensor,
        lo: int,
        hi: int,
    ) -> Tensor:
        ctx.save_for_backward(x, gamma, beta, mean, variance, scale)
        ctx.eps, ctx.lo, ctx.hi = eps, lo, hi
        return _normalized(x, gamma, beta, mean, variance, eps).div_(scale).round_().clamp_(lo, hi).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, gamma, beta, mean, variance, scale = ctx.saved_tensors
        # the same kernel on the same numbers as forward: the codes below are those that forward rounded to
        v = _normalized(x, gamma, beta, mean, variance, ctx.eps)
        grad_v = pass_inside(grad, v, scale, ctx.lo, ctx.hi)
        grad_x, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
            grad_v, x, gamma, None, None, mean, torch.rsqrt(variance + ctx.eps), True, ctx.eps, [True, True, True]
        )
        grad_scale = None
        if ctx.needs_input_grad[6]:
            inside = (gamma * grad_gamma).sum() + (beta * grad_beta).sum()
            total = dot(grad, v.div_(scale).round_().clamp_(ctx.lo, ctx.hi)) - inside / scale
            grad_scale = total.reshape(scale.shape)
        return grad_x, grad_gamma, grad_beta, None, None, None, grad_scale, None, None


def _normalized(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    result: Tensor = torch.native_batch_norm(x, gamma, beta, mean, variance, False, 0.0, eps)[0]
    return result


def normalize_and_quantize(batch_norm: BatchNorm, quantizer: StepQuantizer, x: Tensor) -> Tensor:
    """Compute ``quantizer(batch_norm(x))``, joined where hooks, modes and types leave no way to tell the difference."""
    if not _can_join(batch_norm, quantizer, x):
        return quantizer(batch_norm(x))  # type: ignore[no-any-return]
    # the statistics that nn.BatchNorm would keep: its own forward pass is not called
    assert batch_norm.momentum is not None and batch_norm.num_batches_tracked is not None
    batch_norm.num_batches_tracked.add_(1)
    with torch.no_grad():
        mean, variance = torch.batch_norm_update_stats(
            x, batch_norm.running_mean, batch_norm.running_var, batch_norm.momentum
        )
    result: Tensor = _NormalizeAndQuantize.apply(  # type: ignore[no-untyped-call]
        x,
        batch_norm.weight,
        batch_norm.bias,
        mean,
        variance,
        batch_norm.eps,
        quantizer.scale(),
        quantizer.spec.lo,
        quantizer.spec.hi,
    )
    return result


def _can_join(batch_norm: BatchNorm, quantizer: StepQuantizer, x: Tensor) -> bool:
    """Accept plain batch norms in train mode without hooks, in float32 on a CPU; compilers join by themselves."""
    plain = type(batch_norm) in (nn.BatchNorm1d, nn.BatchNorm2d) and batch_norm.training
    learned = batch_norm.affine and batch_norm.track_running_stats and batch_norm.momentum is not None
    usual = x.is_cpu and x.dtype == torch.float32 and x.numel() > x.shape[1]  # of one value there is no variance
    hooked = any(getattr(module, kind) for module in (batch_norm, quantizer) for kind in _HOOKS)
    return plain and learned and usual and not hooked and not torch.compiler.is_compiling()

"""An optimizer for quantization steps, which differ in size by orders of magnitude."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

_LARGEST = 1e18


class RelativeAdam(Optimizer):
    """Adam on the logarithm of positive parameters: ``lr`` is the relative movement per iteration.

    The gradient with respect to ``log s`` is ``g * s``, and the update is
    ``s <- s * exp(-lr * m / (sqrt(v) + eps))`` with Adam's bias-corrected moments ``m`` and ``v`` of ``g * s``.

    Why not SGD: a step is one scalar per layer or tensor, its useful size follows the tensor (1e-3 ... 1), and its
    gradient follows the number of elements, the bit width and the depth. Plain SGD, at the ratios known for QKD
    (weight steps at 1/100 of the weights' learning rate, activation steps at the same rate), changes a step by about
    1e-7 of its value per iteration. Here the movement does not depend on either scale, the published ratios become
    ratios of *relative* movement, and a step stays positive whatever its gradient.

    All parameters of a group must have the same shape (scalars, usually); they are updated in one vectorised pass.
    A parameter without a gradient counts as having a gradient of zero.

    Args:
        params: parameters or groups; every value must be positive.
        lr: largest usual relative movement per iteration.
        betas: decay rates of the moments. The second forgets faster than Adam's usual 0.999: the gradient of a badly
            started step shrinks as it recovers, and remembering its first size would stop the recovery half-way.
        eps: guards against a division by zero where a gradient is exactly zero.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-12,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every group once; with a closure, evaluate it first and return its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._move(group)
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        parameters: list[Tensor] = group["params"]
        steps = torch.stack(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # The bound keeps the square of even an absurd gradient finite.
        relative = (torch.stack(gradients) * steps).clamp(-_LARGEST, _LARGEST)
        # One stacked state per group, kept under its first parameter so that state_dict() carries it.
        state = self.state[parameters[0]]
        if not state:
            state.update(
                step=torch.tensor(0.0), exp_avg=torch.zeros_like(relative), exp_avg_sq=torch.zeros_like(relative)
            )
        beta1, beta2 = group["betas"]
        state["step"] += 1
        mean = state["exp_avg"].lerp_(relative, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(relative.square(), 1 - beta2)
        count = state["step"].item()
        direction = (mean / (1 - beta1**count)) / ((square / (1 - beta2**count)).sqrt() + group["eps"])
        moved = steps * torch.exp(-group["lr"] * direction)
        moved.clamp_(min=torch.finfo(moved.dtype).tiny)
        torch._foreach_copy_(parameters, list(moved.unbind()))

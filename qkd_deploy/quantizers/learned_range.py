"""Positive numbers that any optimizer can learn: the scales and ends of quantizers.

A scale is between 1e-4 and 1, and its gradient sums up thousands of elements: as a plain parameter, an optimizer whose
steps suit weights throws it out of its tensor's range in a few iterations, and weight decay pulls it to zero. So what
is learned is how far it moved, in relative terms:

    value = start * e(move),    e(m) = (1 + m / 16)^16 where m >= 0,  e(m) = 1 / e(-m) elsewhere

``e`` is nearly the exponential function (its logarithm is 0.97 at ``m = 1``), but made of operations that every machine
rounds alike: two CPUs freeze a checkpoint to the same constants. ``move`` begins at 0; weight decay
draws it back to where the scale was initialised, so slowly that the gradient outweighs it, and never to zero. The
gradient of ``move`` is ``value * dL/dvalue``, the derivative of the loss by the value's logarithm, whatever units the
tensor has. It is bounded by ``LARGEST_GRADIENT``: with momentum 0.9 and a learning rate of 0.1, a value moves by 10 %
an iteration at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_GRADIENT = 0.1
"""Bound on the magnitude of the gradient of every ``move``."""
_SQUARINGS = 4


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, start: Tensor, move: Tensor) -> Tensor:
        base = move.abs() * 0.5**_SQUARINGS + 1.0
        factor = base
        for _ in range(_SQUARINGS):
            factor = factor * factor
        value = torch.where(move < 0, start / factor, start * factor)
        ctx.save_for_backward(value, base)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        value, base = ctx.saved_tensors
        return None, (grads[0] * value / base).clamp(-LARGEST_GRADIENT, LARGEST_GRADIENT)


class LearnedRange(nn.Module):
    """Learn one positive number, or one for every output channel.

    Attributes:
        start: what it was initialised to: a buffer of shape ``[]`` or ``[C]``.
        move: the parameter of the same shape; how far it moved since, as a logarithm.
    """

    start: Tensor

    def __init__(self, value: float, channels: int | None = None, *, learnable: bool = True) -> None:
        """Start at ``value``; ``channels`` of them, or a single one."""
        super().__init__()
        shape = () if channels is None else (channels,)
        self._before = value
        self.register_buffer("start", torch.full(shape, value, dtype=torch.float32))
        self.move = nn.Parameter(torch.zeros(shape), requires_grad=learnable)

    def is_unset(self) -> bool:
        """Tell whether it still starts where it was made: nobody has set it, and no checkpoint was loaded."""
        return bool((self.start == self._before).all())

    def value(self) -> Tensor:
        """Compute the present value, differentiable by ``move``."""
        result: Tensor = _Moved.apply(self.start, self.move)  # type: ignore[no-untyped-call]
        return result

    @torch.no_grad()
    def set(self, value: float | Tensor) -> None:
        """Start anew at ``value``: a number, or a tensor of the range's shape."""
        self.start.copy_(torch.as_tensor(value))
        self.move.zero_()


def move_by(factor: float) -> float:
    """Compute the ``move`` that multiplies a value by ``factor``, which is 1 or more."""
    steps = 2.0**_SQUARINGS
    return float(steps * (factor ** (1 / steps) - 1))


def with_moves(state: Mapping[str, Tensor], model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Give a state_dict that holds ranges as single tensors, as older versions wrote them, the entries of today.

    Args:
        state: entries of ``model`` behind ``prefix``.
        model: decides which entries are ranges.
        prefix: in front of the model's names.
    """
    renewed = dict(state)
    ranges = [name for name, module in model.named_modules() if isinstance(module, LearnedRange)]
    for name in (prefix + name for name in ranges):
        if name in renewed:
            value = renewed.pop(name)
            renewed[f"{name}.start"], renewed[f"{name}.move"] = value, torch.zeros_like(value)
    return renewed

"""An optimizer for quantization steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Adam


class RelativeAdam(Adam):
    """Adam for what ``learned_range.LearnedRange`` learns: ``lr`` is the relative movement per iteration.

    Any optimizer moves scales. This one moves them all at one relative speed, whatever the bits, depth and size of
    their tensors, so that the learning-rate ratios known for QKD (steps of weights at 1/100 of the weights' rate, steps
    of activations at the same rate) become ratios of relative movement.

    Args:
        params: parameters or groups, from ``parameter_groups``.
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
        super().__init__(params, lr=lr, betas=betas, eps=eps)

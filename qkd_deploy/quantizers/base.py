"""The interface of a fake quantizer: every published method is a subclass of ``Quantizer``.

A quantizer has a *deployable form*: integer codes times one positive scale. That form is trained, previewed and frozen.
Activations must be ``q = clip(round(v / scale), lo, hi)``, because integer kernels compute just that; the codes of
weights are constants, so that any function of the weights may choose them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qkd_deploy.bits import TensorSpec
from qkd_deploy.quantizers.learned_range import LearnedRange
from qkd_deploy.quantizers.scale_search import channel_scales, initial_scale


class Quantizer(nn.Module):
    """Fake-quantize one tensor: round it to an integer grid in the forward pass, with gradients for training.

    Attributes:
        spec: the integer grid.
        channels: output channels, each of which has a scale of its own; None for one scale of the whole tensor.
        fixed: its scale is given, as for raw pixels: neither learned nor initialised.
        initialization: the method of ``scale_search`` that ``"auto"`` stands for.
        difference: how the deployable form differs from the published forward pass, as a sentence; "" where it does
            not.
    """

    initialization: ClassVar[str] = "mse"
    difference: ClassVar[str] = ""
    fixed: bool = False

    def __init__(self, spec: TensorSpec, channels: int | None = None) -> None:
        """Work on the grid ``spec``, with one scale or with ``channels`` of them."""
        super().__init__()
        self.spec = spec
        self.channels = channels

    def ranges(self) -> list[Tensor]:
        """Return the positive numbers that decide the scale, of shape ``[]`` or ``[C]``."""
        return [module.value() for module in self.children() if isinstance(module, LearnedRange)]

    def scale(self) -> Tensor:
        """Return the deployed scale in the units of the tensor: positive, differentiable if learned.

        Its shape is ``[]``, or ``[C]`` with one scale per output channel.
        """
        raise NotImplementedError

    def set_scale(self, value: float | Tensor) -> None:
        """Set the ranges so that ``scale()`` is ``value``: one number for all channels, or a tensor of its shape."""
        raise NotImplementedError

    def is_unset(self) -> bool:
        """Tell whether the scale is the one that it was made with: neither initialised nor loaded."""
        return all(module.is_unset() for module in self.children() if isinstance(module, LearnedRange))

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Return ``codes(v) * scale()`` with the method's gradients; ``v`` is float32."""
        raise NotImplementedError

    def learned(self) -> list[nn.Parameter]:
        """Return the parameters of the ranges that training moves: how far each moved, 0 at the start."""
        moves = [module.move for module in self.children() if isinstance(module, LearnedRange)]
        return [move for move in moves if move.requires_grad]

    def start(self, v: Tensor, method: str = "auto") -> float | Tensor:
        """Choose the scale to begin with from a sample of the tensor; the result has the shape of ``scale()``.

        Args:
            v: weights, or activations of one batch.
            method: one of ``scale_search.METHODS``; "auto" takes the quantizer's own.

        Raises:
            UserError: an unknown method, or values that are not finite.
        """
        chosen = self.initialization if method == "auto" else method
        return initial_scale(v, self.spec, chosen) if self.channels is None else channel_scales(v, self.spec, chosen)

    def forward(self, v: Tensor) -> Tensor:
        """Fake-quantize a tensor of any shape in float32: half precision would round ``v / scale`` to other codes."""
        with torch.autocast(v.device.type, enabled=False):
            return self.fake_quantize(v.float())

    def codes(self, v: Tensor) -> Tensor:
        """Return the centered codes of a tensor as float32 integers, same shape, without gradient."""
        with torch.no_grad():
            return torch.round(v.float() / along_channels(self.scale(), v)).clamp_(self.spec.lo, self.spec.hi)

    def extra_repr(self) -> str:
        """Describe bits, signedness and scale for ``print``."""
        sign = "signed" if self.spec.signed else "unsigned"
        low, high = (f"{end.item():.4g}" for end in torch.aminmax(self.scale().detach()))
        steps = f"step {low}" if self.channels is None else f"{self.channels} steps {low}..{high}"
        return f"{self.spec.bits} bits {sign}, codes {self.spec.lo}..{self.spec.hi}, {steps}"


def along_channels(values: Tensor, like: Tensor) -> Tensor:
    """Shape one value, or one per output channel, so that it broadcasts over ``like``, output channels first."""
    return values if values.dim() == 0 else values.view(-1, *[1] * (like.dim() - 1))


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return torch.round(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def round_straight_through(v: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged."""
    result: Tensor = _RoundStraightThrough.apply(v)  # type: ignore[no-untyped-call]
    return result

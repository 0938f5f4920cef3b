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
from qkd_deploy.quantizers.scale_search import initial_scale


class Quantizer(nn.Module):
    """Fake-quantize one tensor: round it to an integer grid in the forward pass, with gradients for training.

    Attributes:
        spec: the integer grid.
        fixed: its scale is given, as for raw pixels: neither learned nor initialised.
        initialization: the method of ``scale_search`` that ``"auto"`` stands for.
        difference: how the deployable form differs from the published forward pass, as a sentence; "" where it does
            not.
    """

    initialization: ClassVar[str] = "mse"
    difference: ClassVar[str] = ""
    fixed: bool = False

    def __init__(self, spec: TensorSpec) -> None:
        """Work on the grid ``spec``."""
        super().__init__()
        self.spec = spec

    def ranges(self) -> list[Tensor]:
        """Return the positive scalars that decide the scale: parameters where learned, buffers where constant."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """Return the deployed scale in the units of the tensor: positive, shape ``[]``, differentiable if learned."""
        raise NotImplementedError

    def set_scale(self, value: float) -> None:
        """Set the ranges so that ``scale()`` is ``value``."""
        raise NotImplementedError

    def fake_quantize(self, v: Tensor) -> Tensor:
        """Return ``codes(v) * scale()`` with the method's gradients; ``v`` is float32."""
        raise NotImplementedError

    def learned(self) -> list[nn.Parameter]:
        """Return the positive scalars that training moves."""
        return [value for value in self.ranges() if isinstance(value, nn.Parameter) and value.requires_grad]

    def start(self, v: Tensor, method: str = "auto") -> float:
        """Choose the scale to begin with from a sample of the tensor.

        Args:
            v: weights, or activations of one batch.
            method: one of ``scale_search.METHODS``; "auto" takes the quantizer's own.

        Raises:
            UserError: an unknown method, or values that are not finite.
        """
        return initial_scale(v, self.spec, self.initialization if method == "auto" else method)

    def forward(self, v: Tensor) -> Tensor:
        """Fake-quantize a tensor of any shape in float32: half precision would round ``v / scale`` to other codes."""
        with torch.autocast(v.device.type, enabled=False):
            return self.fake_quantize(v.float())

    def codes(self, v: Tensor) -> Tensor:
        """Return the centered codes of a tensor as float32 integers, same shape, without gradient."""
        with torch.no_grad():
            return torch.round(v.float() / self.scale()).clamp_(self.spec.lo, self.spec.hi)

    def extra_repr(self) -> str:
        """Describe bits, signedness and scale for ``print``."""
        sign = "signed" if self.spec.signed else "unsigned"
        return f"{self.spec.bits} bits {sign}, codes {self.spec.lo}..{self.spec.hi}, step {self.scale().item():.4g}"


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

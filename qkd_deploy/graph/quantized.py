"""Quantized tensors: codes and the grids that they are on.

Codes travel as float32 tensors of centered integers (code minus zero point), which every device computes exactly and
fast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qkd_deploy.graph.ir import rebuilt

POOL_CODE = 64
"""Weight code of average pools written as convolutions: the largest that is safe on every x86 CPU."""


class QuantParams(nn.Module):
    """The integer grid of a tensor: ``value = code * scale``, stored as ``code + zero_point`` in uint8."""

    scale: Tensor

    def __init__(
        self, scale: float, bits: int, zero_point: int, lo: int, hi: int, *, bounded_below: bool = False
    ) -> None:
        """``lo`` and ``hi`` are centered codes; ``scale`` is rounded to float32.

        ``bounded_below`` says that no code below ``lo`` is ever computed, so that none has to be clipped at that end.
        """
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.bits, self.zero_point, self.lo, self.hi = bits, zero_point, lo, hi
        self.bounded_below = bounded_below

    @property
    def extent(self) -> int:
        """Largest magnitude of a centered code."""
        return max(-self.lo, self.hi)

    @property
    def middle(self) -> int:
        """The centered code that becomes zero where codes become signed bytes, so that those are small."""
        return (self.lo + self.hi + 1) // 2

    def quantize(self, x: Tensor) -> Tensor:
        """Centered codes of float values."""
        return torch.round(x / self.scale).clamp_(self.lo, self.hi)

    def store(self, codes: Tensor) -> npt.NDArray[np.uint8]:
        """Centered codes as they are stored: uint8, with the zero point."""
        return (codes + self.zero_point).to(torch.uint8).cpu().numpy()

    def times(self, factor: float) -> QuantParams:
        """The grid of the same codes when they stand for ``factor`` times as much."""
        return QuantParams(float(self.scale * factor), self.bits, self.zero_point, self.lo, self.hi)

    def extra_repr(self) -> str:
        """Scale and range for ``print``."""
        return f"scale {self.scale.item():.6g}, zero point {self.zero_point}, codes {self.lo}..{self.hi}"


def meets_signed(left: QuantParams, right: QuantParams) -> bool:
    """True where stored codes of ``left`` times signed bytes of ``right`` stay within 16 bits, two products at a time.

    So x86 CPUs without VNNI add them, while those with VNNI multiply by signed bytes half again as fast.
    """
    most = left.zero_point + left.hi
    least, largest = (end - right.middle for end in (right.lo, right.hi))
    return 2 * most * least >= -(2**15) and 2 * most * largest < 2**15


class LookupParams(QuantParams):
    """The grid of a function's result, with the codes of the function for each of its operand's codes."""

    table: Tensor

    def __init__(self, grid: QuantParams, table: Tensor) -> None:
        """``table``: uint8 ``[256]``, stored codes by the operand's stored codes."""
        super().__init__(float(grid.scale), grid.bits, grid.zero_point, grid.lo, grid.hi)
        self.register_buffer("table", table)


class QuantizedTensor(NamedTuple):
    """A quantized tensor: centered codes (float32 integers) and their grid."""

    codes: Tensor
    grid: QuantParams

    def real(self) -> Tensor:
        """DequantizeLinear: ``code * scale``."""
        return self.codes * self.grid.scale


def real(value: Any) -> Any:
    """Nested values with every ``QuantizedTensor`` dequantized."""
    if isinstance(value, QuantizedTensor):
        return value.real()
    return rebuilt(value, real)


def pool_weight_scale(kernel_size: tuple[int, ...]) -> float:
    """Scale of the weights of an average pool written as a convolution with codes ``POOL_CODE``."""
    return float(np.float32(1 / (POOL_CODE * np.prod(kernel_size))))

"""Values on the edges of the reference: arrays, quantized values, operators that wait for their quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from qkd_deploy.verification.reference import rounding
from qkd_deploy.verification.reference.rounding import Parameters


@dataclass(frozen=True)
class Quantized:
    """The output of a DequantizeLinear that has not been turned into floats: codes with their scale and zero point.

    Scale and zero point are 0-d arrays, or 1-d with one entry per index of ``axis``.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0

    @property
    def scalar(self) -> bool:
        """One scale and zero point for the whole tensor."""
        return self.scale.ndim == 0 and self.zero_point.ndim == 0

    @property
    def parameters(self) -> Parameters:
        """Scale and zero point of a value that has one of each."""
        return Parameters(self.scale, self.zero_point)

    @property
    def byte(self) -> bool:
        """uint8 codes with scalar parameters, the form of every activation."""
        return self.scalar and self.codes.dtype == np.uint8

    def centred(self) -> np.ndarray:
        """Codes minus zero points as int16 (int64 for wide codes)."""
        kind = np.int16 if self.codes.dtype.itemsize == 1 else np.int64
        return np.asarray(self.codes.astype(kind) - self._along_axis(self.zero_point).astype(kind))

    def to_float(self) -> np.ndarray:
        """Compute what DequantizeLinear would return."""
        return rounding.dequantize(self.codes, self._along_axis(self.scale), self._along_axis(self.zero_point))

    def with_codes(self, codes: np.ndarray) -> Quantized:
        """Other codes under the same parameters (operators that only move codes)."""
        return replace(self, codes=codes)

    def _along_axis(self, parameter: np.ndarray) -> np.ndarray:
        shape = [1] * self.codes.ndim
        if parameter.ndim:
            shape[self.axis] = -1
        return parameter.reshape(shape) if parameter.ndim else parameter


@dataclass(frozen=True)
class Pending:
    """An operator on quantized operands whose only reader is a QuantizeLinear: ONNX Runtime fuses the two."""

    node: onnx.NodeProto
    operands: tuple[Quantized | None, ...]


Value = np.ndarray | Quantized | Pending


def as_array(value: Value | None) -> np.ndarray:
    """The floats (or integers) of a value."""
    if isinstance(value, Quantized):
        return value.to_float()
    assert isinstance(value, np.ndarray)  # a Pending value is read by its QuantizeLinear only
    return value


def as_arrays(values: Sequence[Value | None]) -> list[np.ndarray | None]:
    """The floats (or integers) of several values; None where one is left out."""
    return [None if value is None else as_array(value) for value in values]

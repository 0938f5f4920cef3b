"""One row of the reference's table: everything it knows about an ONNX operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from qkd_deploy.verification.reference.rounding import Parameters
from qkd_deploy.verification.reference.values import Quantized, Value

Operands = tuple[Quantized | None, ...]
"""Operands of an integer kernel; None where an input is left out."""
Values = tuple[Value | None, ...]
"""Operands of any kind."""


def all_are_bytes(node: onnx.NodeProto, operands: Values) -> bool:
    """True where all operands are uint8 codes with one scale and zero point each."""
    return all(isinstance(operand, Quantized) and operand.byte for operand in operands)


@dataclass(frozen=True)
class Operator:
    """An operator of ONNX. What a row does not say, the reference leaves to the runtime, in float.

    Attributes:
        fused: its codes where it stands between DequantizeLinear and QuantizeLinear, whose parameters come last.
        fits: whether operands have the form in which the runtime fuses the operator with its quantizers.
        exact_float: its float output on codes, where an integer kernel gives that even without a quantizer behind it.
        on_integers: what it makes of integers that no DequantizeLinear stands before; the list holds further operands.
        on_codes: the same for codes that a DequantizeLinear made floats of, which leave as codes on the same grid.
        moves: whether every element of its output is one of its input, so that it is right on codes and on floats.
        rounds_once: whether IEEE 754 fixes every bit of its result in float, or of what operands it does.
    """

    fused: Callable[[onnx.NodeProto, Operands, Parameters], np.ndarray] | None = None
    fits: Callable[[onnx.NodeProto, Values], bool] = all_are_bytes
    exact_float: Callable[[onnx.NodeProto, Operands], np.ndarray] | None = None
    on_integers: Callable[[onnx.NodeProto, np.ndarray, list[np.ndarray | None]], np.ndarray] | None = None
    on_codes: Callable[[onnx.NodeProto, np.ndarray], np.ndarray] | None = None
    moves: Callable[[onnx.NodeProto], bool] | bool = False
    rounds_once: Callable[[Values], bool] | bool = False


def first(operands: Operands) -> Quantized:
    """The first operand, which no integer kernel does without."""
    assert operands[0] is not None
    return operands[0]


def both(operands: Operands) -> tuple[Quantized, Quantized]:
    """The first two operands of a binary operator."""
    assert operands[0] is not None and operands[1] is not None
    return operands[0], operands[1]


def third(operands: Operands) -> Quantized | None:
    """The bias of a layer; None where it is left out."""
    return operands[2] if len(operands) > 2 else None

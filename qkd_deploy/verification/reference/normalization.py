"""Softmax and its parts: exponentials from a table, sums and roots that every CPU rounds alike."""

from __future__ import annotations

import math

import numpy as np
import onnx

from qkd_deploy.verification.onnx_graph import attributes_of
from qkd_deploy.verification.reference import rounding
from qkd_deploy.verification.reference.operator import Operands, Operator, Values, first
from qkd_deploy.verification.reference.rounding import F32, Parameters
from qkd_deploy.verification.reference.values import Quantized, as_array

_RESERVE = 5.0  # the kernel keeps this far (as a logarithm) below the largest float32


def softmax(codes: np.ndarray, source: Parameters, out: Parameters, axis: int) -> np.ndarray:
    """QLinearSoftmax: ``rint(f32(f32(e * floor(1/s_y)) / sum)) + zp``.

    ``e`` is the exponential of the code as if the largest were 255. The kernel rounds ``1/s_y`` down to an integer N,
    so that only scales 1/N keep their meaning, and its products overflow where N reaches 148 times the length of a row.
    The operand's zero point has no part.
    """
    x = np.moveaxis(codes, axis, -1)
    table = _exponentials(source.scale, x.shape[-1])
    e = table[255 - (x.max(axis=-1, keepdims=True) - x)]
    total = np.add.accumulate(e, axis=-1, dtype=F32)[..., -1:]
    steps = np.rint(e * np.floor(F32(1) / F32(out.scale)) / total)
    return np.moveaxis(rounding.round_and_saturate(steps, out.zero), -1, axis)


def _exponentials(scale: np.ndarray, length: int) -> np.ndarray:
    """float32 [256], scaled so that a sum of ``length`` of them stays finite."""
    largest = F32(math.log(np.finfo(F32).max / F32(length)))  # the kernel takes this logarithm in float32
    shift = max(0.0, float(largest) - _RESERVE) / float(scale)
    return np.asarray(np.exp((np.arange(256) - 255 + shift) * float(scale)).astype(F32))


def exponentials(x: Quantized, out: Parameters) -> np.ndarray:
    """Exp between a DequantizeLinear and a QuantizeLinear, of codes less the largest of their row.

    Bytes have the largest code as zero point, and 256 possible differences at most; int32 are differences already.
    Exported scales keep the results farther from rounding ties than any CPU's exponential is off, so that this is the
    rounded true value.
    """
    if x.codes.dtype == np.int32:
        return rounding.quantize(np.exp(x.to_float().astype(np.float64)).astype(F32), *out)
    differences = x.codes.astype(np.int16) - x.zero_point[:, None].astype(np.int16)
    below = (np.arange(-255, 256).astype(F32) * F32(x.scale[0])).astype(np.float64)
    return np.asarray(rounding.quantize(np.exp(below).astype(F32), *out)[differences + 255])


def _is_less_than_largest(node: onnx.NodeProto, operands: Values) -> bool:
    """True where the operand is codes less the largest of their row: a zero point a row, or differences in int32."""
    x = operands[0]
    if isinstance(x, Quantized) and x.scalar and x.codes.dtype == np.int32:
        return not x.zero_point and bool((x.codes.max(-1, initial=0) == 0).all()) and bool((x.codes <= 0).all())
    if not isinstance(x, Quantized) or x.codes.dtype != np.uint8 or x.axis != 0 or not x.scale.size:
        return False
    return x.zero_point.ndim == 1 and x.scale.shape == x.zero_point.shape and bool((x.scale == x.scale[0]).all())


def _softmax(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = first(operands)
    return softmax(x.codes, x.parameters, out, attributes_of(node).get("axis", -1))


def _exponential(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    return exponentials(first(operands), out)


def _sums_integers(operands: Values) -> bool:
    """True where the operand's type holds every sum of elements exactly, in whatever order they are added."""
    x = as_array(operands[0])
    most = 2.0 ** (np.finfo(x.dtype).nmant + 1) if x.dtype.kind == "f" else np.inf
    return bool(np.array_equal(x, np.rint(x))) and float(np.abs(x, dtype=np.float64).sum(-1).max(initial=0)) <= most


def _is_float64(operands: Values) -> bool:
    """True where a root is rounded once: of float32 it is an approximation."""
    return as_array(operands[0]).dtype == np.float64


OPERATORS = {
    "Softmax": Operator(fused=_softmax),
    "Exp": Operator(fused=_exponential, fits=_is_less_than_largest),
    "ReduceSum": Operator(rounds_once=_sums_integers),
    "Sqrt": Operator(rounds_once=_is_float64),
}

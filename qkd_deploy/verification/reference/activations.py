"""Activation functions: tables over all 256 codes, as ONNX Runtime makes them when it loads a model."""

from __future__ import annotations

import numpy as np
import onnx

from qkd_deploy.verification.onnx_graph import attributes_of
from qkd_deploy.verification.reference import rounding
from qkd_deploy.verification.reference.operator import Operands, Operator, first
from qkd_deploy.verification.reference.rounding import F32, Parameters


def sigmoid_table(source: Parameters, out: Parameters) -> np.ndarray:
    """QLinearSigmoid: dequantize, sigmoid, quantize.

    The runtime's sigmoid is a rational approximation in float32 that differs between CPUs by 2e-7 at most; this is the
    rounded true value. Exported scales keep all entries farther than that from rounding ties.
    """
    x = rounding.dequantize(np.arange(256), *source).astype(np.float64)
    return rounding.quantize((1 / (1 + np.exp(-x))).astype(F32), *out)


def leaky_relu_table(source: Parameters, out: Parameters, alpha: float) -> np.ndarray:
    """QLinearLeakyRelu: dequantize, ``f32(alpha * x)`` where x is negative, quantize."""
    x = rounding.dequantize(np.arange(256), *source)
    return rounding.quantize(np.where(x < 0, F32(alpha) * x, x), *out)


def _sigmoid(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = first(operands)
    return np.asarray(sigmoid_table(x.parameters, out)[x.codes])


def _leaky_relu(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = first(operands)
    table = leaky_relu_table(x.parameters, out, attributes_of(node).get("alpha", 0.01))
    return np.asarray(table[x.codes])


def _clip(_: onnx.NodeProto, codes: np.ndarray, bounds: list[np.ndarray | None]) -> np.ndarray:
    """Integers within bounds, either of which may be left out."""
    low, high = (*bounds, None, None)[:2]
    return codes if low is None and high is None else np.clip(codes, low, high)


OPERATORS = {
    "Sigmoid": Operator(fused=_sigmoid),
    "LeakyRelu": Operator(fused=_leaky_relu),
    "Relu": Operator(rounds_once=True),
    "Clip": Operator(on_integers=_clip, rounds_once=True),
}

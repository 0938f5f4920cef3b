"""Functions of one quantized tensor: tables over all 256 codes, as ONNX Runtime makes them when it loads a model."""

from __future__ import annotations

import numpy as np

from qkd_deploy.verification.reference import arithmetic
from qkd_deploy.verification.reference.arithmetic import Parameters
from qkd_deploy.verification.reference.values import Quantized

F32 = np.float32


def sigmoid_table(source: Parameters, out: Parameters) -> np.ndarray:
    """QLinearSigmoid: dequantize, sigmoid, quantize.

    The runtime's sigmoid is a rational approximation in float32 that differs between CPUs by 2e-7 at most; this is the
    rounded true value. Exported scales keep all entries farther than that from rounding ties.
    """
    x = arithmetic.dequantize(np.arange(256), *source).astype(np.float64)
    return arithmetic.quantize((1 / (1 + np.exp(-x))).astype(F32), *out)


def leaky_relu_table(source: Parameters, out: Parameters, alpha: float) -> np.ndarray:
    """QLinearLeakyRelu: dequantize, ``f32(alpha * x)`` where x is negative, quantize."""
    x = arithmetic.dequantize(np.arange(256), *source)
    return arithmetic.quantize(np.where(x < 0, F32(alpha) * x, x), *out)


def by_rows(x: Quantized) -> bool:
    """Whether every row has the zero point of its own and all have one scale: codes less the largest of their row."""
    rows = x.zero_point.ndim == 1 and x.scale.shape == x.zero_point.shape and x.codes.dtype == np.uint8
    return bool(rows and x.axis == 0 and x.scale.size and (x.scale == x.scale[0]).all())


def exponentials(x: Quantized, out: Parameters) -> np.ndarray:
    """Exp between a DequantizeLinear by rows and a QuantizeLinear.

    It has 256 possible operands at most. Exported scales keep the results farther from rounding ties than any CPU's
    exponential is off, so that this is the rounded true value.
    """
    differences = x.codes.astype(np.int16) - x.zero_point[:, None].astype(np.int16)
    below = (np.arange(-255, 256).astype(F32) * F32(x.scale[0])).astype(np.float64)
    return np.asarray(arithmetic.quantize(np.exp(below).astype(F32), *out)[differences + 255])

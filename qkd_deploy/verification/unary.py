"""Functions of one quantized tensor: tables over all 256 codes, as ONNX Runtime makes them when it loads a model."""

from __future__ import annotations

import numpy as np

from qkd_deploy.verification import arithmetic
from qkd_deploy.verification.arithmetic import Parameters

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

"""Layers with constant weights: convolutions and Gemm."""

from __future__ import annotations

import numpy as np
import onnx

from qkd_deploy.verification.onnx_graph import attributes_of
from qkd_deploy.verification.reference import accumulate, rounding
from qkd_deploy.verification.reference.accumulate import Window
from qkd_deploy.verification.reference.matmul import add_bias, exact_product, product_codes, product_fits
from qkd_deploy.verification.reference.operator import Operands, Operator, both, third
from qkd_deploy.verification.reference.rounding import Parameters


def _conv(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    """QLinearConv: ``requantize(sum((x - zx) * (w - zw)) + bias)``, factors by output channel."""
    x, w = both(operands)
    attributes = attributes_of(node)
    window = Window.of(attributes, w.codes.shape[2:])
    sums = accumulate.convolve(x.centred(), w.centred(), window, attributes.get("group", 1))
    channels = (-1,) + (1,) * (sums.ndim - 2)
    bias = third(operands)
    if bias is not None:
        sums = add_bias(sums, bias.codes.reshape(channels))
    factor = rounding.multiplier(x.scale, w.scale, out.scale)
    return rounding.requantize(sums, factor.reshape(channels) if factor.ndim else factor, out.zero)


OPERATORS = {
    "Conv": Operator(fused=_conv, fits=product_fits),
    "Gemm": Operator(fused=product_codes, fits=product_fits, exact_float=exact_product),
}

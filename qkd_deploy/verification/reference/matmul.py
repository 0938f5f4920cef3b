"""Products of matrices of codes: requantized, in float, or as the integers that they are."""

from __future__ import annotations

import numpy as np
import onnx

from qkd_deploy.verification.onnx_graph import attributes_of
from qkd_deploy.verification.reference import accumulate, rounding
from qkd_deploy.verification.reference.operator import Operands, Operator, Values, both, third
from qkd_deploy.verification.reference.rounding import F32, Parameters
from qkd_deploy.verification.reference.values import Quantized

_BYTES = (np.dtype(np.int8), np.dtype(np.uint8))


def product_fits(node: onnx.NodeProto, operands: Values) -> bool:
    """True where a product runs in integers: codes, 8-bit weights with scales by output, no bias or an int32 one."""
    x, weight, *rest = operands
    if not isinstance(x, Quantized) or not x.byte or not isinstance(weight, Quantized):
        return False
    bias = rest[0] if rest else None
    plain_bias = bias is None or (isinstance(bias, Quantized) and bias.codes.dtype == np.int32)
    return plain_bias and weight.codes.dtype in _BYTES and _is_unscaled(node) and _scaled_by_output(node, weight)


def _is_unscaled(node: onnx.NodeProto) -> bool:
    """True where alpha and beta of a Gemm are 1."""
    attributes = attributes_of(node)
    return bool(attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0)


def _scaled_by_output(node: onnx.NodeProto, weight: Quantized) -> bool:
    """True where weights have one scale, or one for each output channel."""
    outputs_first = node.op_type == "Conv" or attributes_of(node).get("transB", 0)
    outputs = 0 if outputs_first else weight.codes.ndim - 1
    return weight.scalar or weight.axis % weight.codes.ndim == outputs


def product_codes(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    """QLinearMatMul and QGemm: ``requantize(sum((x - zx) * (w - zw)) + bias)``."""
    x, w = both(operands)
    factor = rounding.multiplier(x.scale, w.scale, out.scale)
    return rounding.requantize(_sums(node, operands), factor, out.zero)


def exact_product(node: onnx.NodeProto, operands: Operands) -> np.ndarray:
    """Float output of Gemm or MatMul on codes: ``f32(acc) * f32(s_x*s_w)``."""
    x, w = both(operands)
    sums = rounding.to_int32(_sums(node, operands)).astype(F32)
    return np.asarray(sums * (F32(x.scale) * w.scale.astype(F32)))


def _sums(node: onnx.NodeProto, operands: Operands) -> np.ndarray:
    x, w = both(operands)
    attributes, bias = attributes_of(node), third(operands)
    a = x.centred().T if attributes.get("transA", 0) else x.centred()
    b = w.centred().T if attributes.get("transB", 0) else w.centred()
    sums = accumulate.multiply(a, b)
    return sums if bias is None else add_bias(sums, bias.codes)


def add_bias(sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Sum in float64: a bias has up to 31 bits."""
    return np.asarray(sums + bias.astype(np.float64))


def _integer_product(_: onnx.NodeProto, codes: np.ndarray, rest: list[np.ndarray | None]) -> np.ndarray:
    """MatMulInteger: int32 sums of products of codes less their zero points."""
    right, left_zero, right_zero = (*rest, None, None)[:3]
    assert right is not None
    sums = accumulate.multiply(_less(codes, left_zero), _less(right, right_zero))
    return sums.astype(np.int64).astype(np.int32)


def _less(codes: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    return codes.astype(np.int16) - (0 if zero is None else int(zero))


OPERATORS = {
    "MatMul": Operator(fused=product_codes, fits=product_fits, exact_float=exact_product),
    "MatMulInteger": Operator(on_integers=_integer_product),
}

"""The operators that ONNX Runtime runs in integers, by the contract's formulas.

``quantized`` gives the codes of an operator whose only reader is a QuantizeLinear, ``exact_float`` the float output of
the products that run in integers even without one. Both return None where the operands are not in the form that fuses;
the operator then is a float operator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from qkd_deploy.verification.reference import accumulate, arithmetic, pooling, unary
from qkd_deploy.verification.reference.accumulate import Window
from qkd_deploy.verification.reference.arithmetic import Parameters
from qkd_deploy.verification.reference.softmax import softmax
from qkd_deploy.verification.reference.values import Quantized, attributes_of

Operands = tuple[Quantized | None, ...]
F32 = np.float32


def quantized(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    """Codes of ``node`` followed by QuantizeLinear(*out); the caller has asked :func:`fuses` before."""
    return _QUANTIZED[node.op_type](node, operands, out)


def fuses(node: onnx.NodeProto, operands: tuple[object, ...]) -> bool:
    """Whether ``node`` and a QuantizeLinear behind it become one integer kernel, or give the same codes everywhere."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _QUANTIZED:
        return False
    first, rest = operands[0], operands[1:]
    if node.op_type == "Exp":
        return isinstance(first, Quantized) and unary.by_rows(first)
    if not (isinstance(first, Quantized) and first.byte):
        return False
    if node.op_type in _PRODUCTS:
        return _product_form(node, operands)
    return all(isinstance(operand, Quantized) and operand.byte for operand in rest)


def exact_float(node: onnx.NodeProto, operands: Operands) -> np.ndarray | None:
    """Float output of Gemm or MatMul on codes: ``f32(acc) * f32(s_x*s_w)``, or None for every other operator."""
    if node.op_type not in ("Gemm", "MatMul") or not fuses(node, operands):
        return None
    x, w = _first_two(operands)
    sums = arithmetic.to_int32(_matrix_sums(node, operands)).astype(F32)
    return np.asarray(sums * (F32(x.scale) * w.scale.astype(F32)))


def _conv(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x, w = _first_two(operands)
    attributes = attributes_of(node)
    window = Window.of(attributes, w.codes.shape[2:])
    sums = accumulate.convolve(x.centred(), w.centred(), window, attributes.get("group", 1))
    channels = (-1,) + (1,) * (sums.ndim - 2)
    bias = operands[2] if len(operands) > 2 else None
    if bias is not None:
        sums = _add_bias(sums, bias.codes.reshape(channels))
    factor = arithmetic.multiplier(x.scale, w.scale, out.scale)
    return arithmetic.requantize(sums, factor.reshape(channels) if factor.ndim else factor, out.zero)


def _matrix(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x, w = _first_two(operands)
    return arithmetic.requantize(
        _matrix_sums(node, operands), arithmetic.multiplier(x.scale, w.scale, out.scale), out.zero
    )


def _matrix_sums(node: onnx.NodeProto, operands: Operands) -> np.ndarray:
    x, w = _first_two(operands)
    attributes = attributes_of(node)
    a, b = x.centred(), w.centred()
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    sums = accumulate.multiply(a, b)
    bias = operands[2] if len(operands) > 2 else None
    return sums if bias is None else _add_bias(sums, bias.codes)


def _add_bias(sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Sum in float64: a bias has up to 31 bits."""
    return np.asarray(sums + bias.astype(np.float64))


def _add(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    a, b = _first_two(operands)
    if _first_is_broadcast(a.codes.shape, b.codes.shape):
        a, b = b, a
    table = arithmetic.add_table(a.parameters, b.parameters, out)
    return np.asarray(table[a.codes, b.codes])


def _first_is_broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether the kernel sees one code of the first operand at a time; it then takes the second one first."""
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True)
    innermost = next(((a, b) for a, b in reversed([*pairs]) if (a, b) != (1, 1)), (1, 1))
    return innermost[0] == 1


def _multiply(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    a, b = _first_two(operands)
    table = arithmetic.multiply_table(a.parameters, b.parameters, out)
    return np.asarray(table[a.codes, b.codes])


def _concat(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    parts = [arithmetic.rescale_table(part.parameters, out)[part.codes] for part in operands if part is not None]
    return np.concatenate(parts, axis=attributes_of(node)["axis"])


def _average_pool(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = _only(operands)
    return pooling.average_pool(x.codes, x.parameters, out, attributes_of(node))


def _global_average_pool(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = _only(operands)
    return pooling.global_average_pool(x.codes, x.parameters, out)


def _sigmoid(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = _only(operands)
    return np.asarray(unary.sigmoid_table(x.parameters, out)[x.codes])


def _exponential(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = _only(operands)
    return unary.exponentials(x, out)


def _leaky_relu(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = _only(operands)
    table = unary.leaky_relu_table(x.parameters, out, attributes_of(node).get("alpha", 0.01))
    return np.asarray(table[x.codes])


def _softmax(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = _only(operands)
    return softmax(x.codes, x.parameters, out, attributes_of(node).get("axis", -1))


_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_QUANTIZED: dict[str, Callable[[onnx.NodeProto, Operands, Parameters], np.ndarray]] = {
    "Conv": _conv,
    "Gemm": _matrix,
    "MatMul": _matrix,
    "Add": _add,
    "Mul": _multiply,
    "Concat": _concat,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "Sigmoid": _sigmoid,
    "LeakyRelu": _leaky_relu,
    "Exp": _exponential,
    "Softmax": _softmax,
}


def _product_form(node: onnx.NodeProto, operands: tuple[object, ...]) -> bool:
    """8-bit weights with one scale, or one per output channel, and no bias or an int32 one."""
    weight, bias = operands[1], operands[2] if len(operands) > 2 else None
    if not isinstance(weight, Quantized) or weight.codes.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
        return False
    attributes = attributes_of(node)
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        return False
    rows = node.op_type == "Conv" or attributes.get("transB", 0)
    outputs = 0 if rows else weight.codes.ndim - 1
    if not weight.scalar and weight.axis % weight.codes.ndim != outputs:
        return False
    return bias is None or (isinstance(bias, Quantized) and bias.codes.dtype == np.int32)


def _first_two(operands: Operands) -> tuple[Quantized, Quantized]:
    assert operands[0] is not None and operands[1] is not None
    return operands[0], operands[1]


def _only(operands: Operands) -> Quantized:
    assert operands[0] is not None
    return operands[0]

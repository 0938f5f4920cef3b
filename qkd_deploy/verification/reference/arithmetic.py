"""Sums and products of two quantized tensors: tables over all pairs of codes."""

from __future__ import annotations

import numpy as np
import onnx

from qkd_deploy.verification.reference import rounding
from qkd_deploy.verification.reference.operator import Operands, Operator, both
from qkd_deploy.verification.reference.rounding import F32, Parameters


def add_table(a: Parameters, b: Parameters, out: Parameters) -> np.ndarray:
    """QLinearAdd of all pairs of uint8 codes, shape [256, 256]; the zero points are folded into one constant.

    ``saturate(rint(fma(a, rA, fma(b, rB, F))))``, ``rA = f32(sA/sC)``, ``F = f32(zC - fma(rA, zA, f32(rB*zB)))``.
    """
    ratio_a, ratio_b = F32(a.scale) / F32(out.scale), F32(b.scale) / F32(out.scale)
    offsets = rounding.fused_multiply_add(ratio_a, F32(a.zero), F32(ratio_b * F32(b.zero)))
    codes = np.arange(256, dtype=F32)
    second = rounding.fused_multiply_add(codes, ratio_b, F32(out.zero) - offsets)
    steps = rounding.fused_multiply_add(codes[:, None], ratio_a, second[None, :])
    return rounding.round_and_saturate(steps, np.zeros((), out.zero.dtype))


def multiply_table(a: Parameters, b: Parameters, out: Parameters) -> np.ndarray:
    """QLinearMul of all pairs of uint8 codes: ``rint(f32(f32((a-zA)(b-zB)) * f32(f32(sA*sB)/sC)) + f32(zC))``."""
    codes = np.arange(256, dtype=F32)
    product = (codes - F32(a.zero))[:, None] * (codes - F32(b.zero))[None, :]
    steps = product * (F32(a.scale) * F32(b.scale) / F32(out.scale)) + F32(out.zero)
    return rounding.round_and_saturate(steps, np.zeros((), out.zero.dtype))


def _add(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    a, b = both(operands)
    if _first_is_broadcast(a.codes.shape, b.codes.shape):
        a, b = b, a
    return np.asarray(add_table(a.parameters, b.parameters, out)[a.codes, b.codes])


def _first_is_broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """True where the kernel sees one code of the first operand at a time; it then takes the second one first."""
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True)
    innermost = next(((a, b) for a, b in reversed([*pairs]) if (a, b) != (1, 1)), (1, 1))
    return innermost[0] == 1


def _multiply(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    a, b = both(operands)
    return np.asarray(multiply_table(a.parameters, b.parameters, out)[a.codes, b.codes])


def _scale_up(_: onnx.NodeProto, codes: np.ndarray, factors: list[np.ndarray | None]) -> np.ndarray:
    """Integers times a constant, by which INT4 and INT2 weights are unpacked."""
    assert factors[0] is not None
    return np.asarray(codes * factors[0])


OPERATORS = {
    "Add": Operator(fused=_add, rounds_once=True),
    "Mul": Operator(fused=_multiply, on_integers=_scale_up, rounds_once=True),
    **dict.fromkeys(("Sub", "Div", "Neg"), Operator(rounds_once=True)),
}

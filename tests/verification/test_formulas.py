"""The integer formulas, pinned against ONNX Runtime over all codes of 8-bit operands."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from agreement import assert_agreement
from graph_builder import GraphBuilder
from hypothesis import given
from hypothesis import strategies as st

from qkd_deploy.verification.reference import rounding

F32 = np.float32
ALL_CODES = np.arange(256)
# (a.scale, a.zero, b.scale, b.zero, c.scale, c.zero); round ratios make exact ties, odd zero points shift them
TRIPLES = [
    (0.013, 0, 0.0177, 0, 0.0213, 0),
    (0.0131, 128, 0.0237, 128, 0.0317, 128),
    (0.05, 0, 0.06, 128, 0.1, 128),
    (0.0333, 0, 0.0333, 0, 0.0151, 240),
    (0.05, 3, 0.06, 77, 0.1, 201),
    (1.0, 128, 0.5, 128, 1.0, 0),
]


def codes_as_floats(codes: np.ndarray, scale: float, zero: int) -> np.ndarray:
    return (codes - zero).astype(F32) * F32(scale)


def all_pairs(triple: tuple[float, int, float, int, float, int]) -> dict[str, np.ndarray]:
    a, b = np.meshgrid(ALL_CODES, ALL_CODES, indexing="ij")
    a_float = codes_as_floats(a, triple[0], triple[1]).reshape(1, 1, 256, 256)
    return {"a_in": a_float, "b_in": codes_as_floats(b, triple[2], triple[3]).reshape(1, 1, 256, 256)}


def binary_graph(op: str, triple: tuple[float, int, float, int, float, int]) -> GraphBuilder:
    graph = GraphBuilder()
    inputs = [graph.input(f"{name}_in", ["batch", 1, 256, 256]) for name in "ab"]
    a = graph.quantize(inputs[0], "a", triple[0], triple[1])
    b = graph.quantize(inputs[1], "b", triple[2], triple[3])
    graph.output(graph.quantize(graph.node(op, [a, b], "sum"), "c", triple[4], triple[5]), rank=4)
    return graph


@pytest.mark.parametrize("triple", TRIPLES)
def test_add_of_all_pairs(triple: tuple[float, int, float, int, float, int]) -> None:
    result = assert_agreement(binary_graph("Add", triple).build(), all_pairs(triple), ("QLinearAdd",))
    assert len(np.unique(result.codes["c.quantized"])) >= 8


@pytest.mark.parametrize("triple", TRIPLES)
def test_multiply_of_all_pairs(triple: tuple[float, int, float, int, float, int]) -> None:
    wider = (*triple[:4], triple[4] * 20, triple[5])
    assert_agreement(binary_graph("Mul", wider).build(), all_pairs(triple), ("QLinearMul",))


def test_add_needs_the_fused_form() -> None:
    """Two roundings instead of one give other codes: the fused multiply-add is not a detail."""
    triple = (0.05, 128, 0.06, 128, 0.1, 128)
    ratio_a, ratio_b = F32(0.05) / F32(0.1), F32(0.06) / F32(0.1)
    fixed = F32(128) - (ratio_a * F32(128) + ratio_b * F32(128))
    codes = ALL_CODES.astype(F32)
    plain = np.clip(np.rint(codes[:, None] * ratio_a + (codes * ratio_b + fixed)[None]), 0, 255)
    result = assert_agreement(binary_graph("Add", triple).build(), all_pairs(triple), ("QLinearAdd",))
    assert (result.codes["c.quantized"][0, 0] != plain).any()


def as_f32_exactly(value: Fraction) -> np.float32:
    """Round a positive fraction below 2 to float32, half to even, by integer arithmetic."""
    exponent = 23
    while value * 2**exponent < 2**23:
        exponent += 1
    return F32(math.ldexp(round(value * 2**exponent), -exponent))  # round() of a Fraction is half to even


@given(st.integers(2**23, 2**24 - 1), st.integers(0, 255), st.integers(-60, 0), st.integers(2**23, 2**24 - 1))
def test_fused_multiply_add_rounds_once(a: int, b: int, shift: int, c: int) -> None:
    """Against exact fractions: a code times a ratio plus a constant, and the constant far larger or smaller."""
    ratio, constant = F32(math.ldexp(a, -33 + shift)), F32(math.ldexp(c, -24))
    exact = Fraction(float(ratio)) * b + Fraction(float(constant))
    assert rounding.fused_multiply_add(F32(b), ratio, constant) == as_f32_exactly(exact)


def test_rounding_twice_would_be_wrong() -> None:
    """The sum lies 2^-46 below the middle of two float32 numbers; float64 rounds onto the middle, then up to even."""
    constant, a, b = F32(2.0**24 + 2), F32(1 + 2.0**-23), F32(1 - 2.0**-23)
    assert F32(np.float64(constant) + np.float64(a) * np.float64(b)) == F32(2.0**24 + 4)
    assert rounding.fused_multiply_add(a, b, constant) == constant


@pytest.mark.parametrize("scale", [0.1, 0.05, 0.0392, 3e-5])
@pytest.mark.parametrize("zero", [0, 128, 77])
def test_quantize_divides_and_rounds_ties_to_even(scale: float, zero: int) -> None:
    """Halves of the step and their float neighbours: multiplying by 1/s instead of dividing would differ."""
    halves = (np.arange(-600, 600) / 2).astype(F32) * F32(scale)
    x = np.concatenate([halves, np.nextafter(halves, F32(9e9)), np.nextafter(halves, F32(-9e9))])
    x = np.concatenate([x, np.array([np.inf, -np.inf, 3e38, -3e38, -0.0, 1e-45], F32)])[None]
    graph = GraphBuilder()
    graph.output(graph.quantize(graph.input("x", ["batch", x.shape[1]]), "q", scale, zero), rank=2)
    result = assert_agreement(graph.build(), {"x": x})
    if scale == 0.0392:
        finite = x[:, : 3 * len(halves)]
        reciprocal = np.clip(np.rint(finite * (F32(1) / F32(scale))), -zero, 255 - zero) + zero
        assert (result.codes["q.quantized"][:, : 3 * len(halves)] != reciprocal).any()


@pytest.mark.parametrize("triple", TRIPLES)
def test_concat_of_all_codes(triple: tuple[float, int, float, int, float, int]) -> None:
    graph = GraphBuilder()
    a = graph.quantize(graph.input("a_in", ["batch", 256]), "a", triple[0], triple[1])
    b = graph.quantize(graph.input("b_in", ["batch", 256]), "b", triple[2], triple[3])
    joined = graph.node("Concat", [a, b], "join", axis=1)
    graph.output(graph.quantize(joined, "c", triple[4], triple[5]), rank=2)
    values = [codes_as_floats(ALL_CODES, *parameters)[None] for parameters in (triple[:2], triple[2:4])]
    assert_agreement(graph.build(), {"a_in": values[0], "b_in": values[1]}, ("QLinearConcat",))


@pytest.mark.parametrize(("second_zero", "hi"), [(0, 15), (8, 15), (128, 255)])
def test_second_quantizer_behind_a_shared_one(second_zero: int, hi: int) -> None:
    """Q8 -> DQ -> {Add, Q4 -> Clip -> DQ -> Add}: codes of all 256 values under the narrower quantizer."""
    graph = GraphBuilder()
    wide = graph.quantize(graph.input("x", ["batch", 256]), "wide", 0.0237, 128)
    narrow = graph.quantize(wide, "narrow", 0.3311, second_zero, hi=hi, clip=True)
    graph.output(graph.quantize(graph.node("Add", [wide, narrow], "sum"), "c", 0.0313, 128), rank=2)
    assert_agreement(graph.build(), {"x": codes_as_floats(ALL_CODES, 0.0237, 128)[None]}, ("QLinearAdd",))


@pytest.mark.parametrize(("zero", "low_zero"), [(0, 240), (0, 252), (128, 8)])
def test_second_quantizer_as_addition_of_zero(zero: int, low_zero: int) -> None:
    """Add of a constant code that means 0 into a narrower quantizer: one QLinearAdd with a scalar operand."""
    graph = GraphBuilder()
    wide = graph.quantize(graph.input("x", ["batch", 16, 16]), "wide", 0.0237, zero)
    null = graph.constant("null", zero, np.uint8)
    zero_float = graph.node("DequantizeLinear", [null, "wide.scale", "wide.zero_point"], "null_dq")
    graph.output(graph.quantize(graph.node("Add", [wide, zero_float], "sum"), "narrow", 0.3311, low_zero), rank=3)
    x = codes_as_floats(ALL_CODES, 0.0237, zero).reshape(1, 16, 16)
    assert_agreement(graph.build(), {"x": x}, ("QLinearAdd",))


@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("out_zero", [0, 128, 240])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 7), (8, 8), (3, 5)])
def test_global_average_pool(zero: int, out_zero: int, size: tuple[int, int]) -> None:
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 16, *size]), "x_q", 0.05, zero)
    graph.output(graph.quantize(graph.node("GlobalAveragePool", [x], "pool"), "c", 0.04, out_zero), rank=4)
    codes = np.random.default_rng(0).integers(0, 256, (64, 16, *size))
    assert_agreement(graph.build(), {"x": codes_as_floats(codes, 0.05, zero)}, ("QLinearGlobalAveragePool",))


@pytest.mark.parametrize(("scale", "out_scale"), [(0.05, 0.04), (0.0137, 0.0091), (0.06, 0.06)])
@pytest.mark.parametrize("zeros", [(0, 0), (128, 128), (0, 240)])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [8, 8]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1, "strides": [2, 2]},
        {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0], "strides": [2, 3], "ceil_mode": 1},
        {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0], "strides": [2, 3], "ceil_mode": 1, "count_include_pad": 1},
    ],
)
def test_average_pool(
    scale: float, out_scale: float, zeros: tuple[int, int], attributes: dict[str, int | list[int]]
) -> None:
    """The zero point is added before rounding; windows are summed in float32, row by row."""
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 16, 8, 8]), "x_q", scale, zeros[0])
    graph.output(graph.quantize(graph.node("AveragePool", [x], "pool", **attributes), "c", out_scale, zeros[1]), rank=4)
    codes = np.random.default_rng(0).integers(0, 256, (16, 16, 8, 8))
    assert_agreement(graph.build(), {"x": codes_as_floats(codes, scale, zeros[0])}, ("QLinearAveragePool",))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0], "strides": [2, 3], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "dilations": [2, 2]},
    ],
)
def test_max_pool_moves_codes(attributes: dict[str, list[int] | int]) -> None:
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 4, 9, 9]), "x_q", 0.05, 128)
    graph.output(graph.quantize(graph.node("MaxPool", [x], "pool", **attributes), "c", 0.05, 128), rank=4)
    codes = np.random.default_rng(0).integers(0, 256, (4, 4, 9, 9))
    assert_agreement(graph.build(), {"x": codes_as_floats(codes, 0.05, 128)}, ("MaxPool",))

"""Convolutions and matrix products: the reference against ONNX Runtime's integer kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agreement import assert_agreement
from graph_builder import GraphBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy.verification.reference.accumulate import Window, convolve, exact_type
from qkd_deploy.verification.reference.model import ReferenceModel

F32 = np.float32


def codes_as_floats(rng: np.random.Generator, shape: tuple[int, ...], scale: float, zero: int, hi: int) -> np.ndarray:
    """Floats that meet every code up to ``hi`` and some values outside the range."""
    return ((rng.integers(-3, hi + 4, shape) - zero) * F32(scale)).astype(F32)


def conv_graph(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    weights: np.ndarray,
    *,
    zero: int = 0,
    out_zero: int = 0,
    hi: int = 255,
    bias: bool = True,
    packed: int | None = None,
    scales: np.ndarray | None = None,
    **attributes: Any,
) -> GraphBuilder:
    graph = GraphBuilder(opset=25 if packed == 2 else 21)
    outputs = len(weights)
    scale = rng.uniform(0.001, 0.02, outputs) if scales is None else scales
    biases = rng.integers(-3000, 3000, outputs) if bias else None
    x = graph.quantize(graph.input("x", ["batch", *shape]), "x_q", 0.0173, zero, hi=hi)
    y = graph.layer("Conv", x, "conv", weights, scale, input_scale=0.0173, bias=biases, packed=packed, **attributes)
    graph.output(graph.quantize(y, "conv_q", 0.0411, out_zero, hi=hi), rank=len(shape) + 1)
    return graph


CONVOLUTIONS = {
    "3x3": ((16, 10, 10), (24, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
    "strided": ((8, 11, 9), (5, 8, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "1x1": ((32, 6, 6), (7, 32, 1, 1), {}),
    "7x7 of 3 channels": ((3, 20, 20), (8, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "depthwise": ((24, 9, 9), (24, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 24}),
    "depthwise with multiplier": ((8, 9, 9), (16, 1, 3, 3), {"group": 8}),
    "grouped": ((12, 8, 8), (18, 4, 3, 3), {"pads": [1, 1, 1, 1], "group": 3}),
    "dilated": ((6, 12, 12), (4, 6, 3, 3), {"dilations": [2, 3], "pads": [2, 1, 0, 3]}),
    "asymmetric": ((6, 7, 12), (4, 6, 2, 5), {"pads": [0, 3, 1, 2], "strides": [1, 3]}),
    "1-d": ((6, 30), (9, 6, 5), {"pads": [4, 2], "strides": [2]}),
}


@pytest.mark.parametrize("form", CONVOLUTIONS)
@pytest.mark.parametrize(("zero", "out_zero", "hi"), [(0, 0, 15), (128, 128, 255), (240, 0, 255)])
def test_convolution(form: str, zero: int, out_zero: int, hi: int) -> None:
    shape, kernel, attributes = CONVOLUTIONS[form]
    rng = np.random.default_rng(3)
    weights = rng.integers(-63, 64, kernel)
    graph = conv_graph(rng, shape, weights, zero=zero, out_zero=out_zero, hi=hi, **attributes)
    result = assert_agreement(
        graph.build(), {"x": codes_as_floats(rng, (3, *shape), 0.0173, zero, hi)}, ("QLinearConv",)
    )
    assert len(np.unique(next(reversed(result.codes.values())))) > 3


def test_convolution_without_bias_and_with_one_weight_scale() -> None:
    rng = np.random.default_rng(4)
    graph = conv_graph(rng, (4, 6, 6), rng.integers(-60, 60, (5, 4, 3, 3)), bias=False)
    assert_agreement(graph.build(), {"x": codes_as_floats(rng, (2, 4, 6, 6), 0.0173, 0, 255)}, ("QLinearConv",))


@pytest.mark.parametrize(("bits", "low", "high"), [(4, -8, 8), (2, -2, 2)])
def test_packed_weights(bits: int, low: int, high: int) -> None:
    """INT4 and INT2 initializers behind Cast and Mul give the same codes as int8 ones."""
    rng = np.random.default_rng(5)
    weights, scales = rng.integers(low, high, (9, 5, 3, 3)), rng.uniform(0.001, 0.01, 9)
    feeds = {"x": codes_as_floats(rng, (2, 5, 8, 8), 0.0173, 0, 15)}
    graphs = [
        conv_graph(np.random.default_rng(6), (5, 8, 8), factor * weights, hi=15, scales=scales, packed=packed)
        for factor, packed in ((8, None), (1, bits))
    ]
    plain, packed_result = (assert_agreement(graph.build(), feeds, ("QLinearConv",)) for graph in graphs)
    for name, codes in plain.codes.items():
        np.testing.assert_array_equal(codes, packed_result.codes[name])


@pytest.mark.parametrize("kernel", [(64, 512, 3, 3), (8, 300, 3, 3)])
def test_sums_beyond_24_bits_are_exact(kernel: tuple[int, ...]) -> None:
    """All weights and codes at their largest: float32 cannot hold these sums, the reference must not use it."""
    rng = np.random.default_rng(7)
    weights = np.full(kernel, 63) - (rng.random(kernel) < 0.01)
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", kernel[1], 3, 3]), "x_q", 0.0173, 0)
    scales = rng.uniform(1e-8, 2e-8, len(weights))
    bias = rng.integers(-100, 100, len(weights))
    y = graph.layer("Conv", x, "conv", weights, scales, input_scale=0.0173, bias=bias)
    graph.output(graph.quantize(y, "conv_q", 0.0173 * 2e-8 * 255 * 63 * weights[0].size / 255, 0), rank=4)
    assert 255 * 63 * weights[0].size > 2**24
    feeds = {"x": ((255 - (rng.random((2, *kernel[1:])) < 0.01)) * F32(0.0173)).astype(F32)}
    assert_agreement(graph.build(), feeds, ("QLinearConv",))


def test_int32_sums_wrap_around_as_in_the_kernel() -> None:
    """A bias near 2^31 overflows the accumulator; the reference shows what the runtime really does."""
    rng = np.random.default_rng(8)
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 2, 3, 3]), "x_q", 0.5, 0)
    bias = np.array([2**31 - 1, -(2**31), 0, 2**31 - 100000])
    weights = np.array([60, -60, 3, 60]).reshape(4, 1, 1, 1) * np.ones((1, 2, 1, 1))
    y = graph.layer("Conv", x, "conv", weights, np.full(4, 1e-6), input_scale=0.5, bias=bias)
    graph.output(graph.quantize(y, "conv_q", 9.0, 128), rank=4)
    result = assert_agreement(graph.build(), {"x": codes_as_floats(rng, (3, 2, 3, 3), 0.5, 0, 255)}, ("QLinearConv",))
    codes = result.codes["conv_q.quantized"]
    assert codes[:, 0].min() < 128 < codes[:, 1].max()  # a large positive sum became negative, and the other way round


def gemm_graph(rng: np.random.Generator, *, quantize: bool, bias: bool, zero: int) -> GraphBuilder:
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 37]), "x_q", 0.0173, zero)
    biases = rng.integers(-9000, 9000, 11) if bias else None
    weights, scales = rng.integers(-63, 64, (11, 37)), rng.uniform(0.001, 0.01, 11)
    y = graph.layer("Gemm", x, "fc", weights, scales, input_scale=0.0173, bias=biases)
    graph.output(graph.quantize(y, "fc_q", 0.0913, 128) if quantize else y, rank=2)
    return graph


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("zero", [0, 128])
def test_gemm(quantize: bool, bias: bool, zero: int) -> None:
    """With a quantizer behind it: codes; without one: float32 logits, equal in every bit."""
    rng = np.random.default_rng(9)
    model = gemm_graph(rng, quantize=quantize, bias=bias, zero=zero).build()
    assert_agreement(model, {"x": codes_as_floats(rng, (64, 37), 0.0173, zero, 255)}, ("QGemm",))


@pytest.mark.parametrize("quantize", [True, False])
def test_matmul(quantize: bool) -> None:
    rng = np.random.default_rng(10)
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 5, 37]), "x_q", 0.0173, 128)
    scales = rng.uniform(0.001, 0.01, 11)
    names = [
        graph.constant("fc.weight", rng.integers(-63, 64, (37, 11)), np.int8),
        graph.constant("fc.weight_scale", scales),
        graph.constant("fc.weight_zero_point", np.zeros(11), np.int8),
    ]
    y = graph.node("MatMul", [x, graph.node("DequantizeLinear", names, "fc.weight", axis=1)], "fc")
    graph.output(graph.quantize(y, "fc_q", 0.0913, 128) if quantize else y, rank=3)
    kernel = "QLinearMatMul" if quantize else "MatMulIntegerToFloat"
    assert_agreement(graph.build(), {"x": codes_as_floats(rng, (4, 5, 37), 0.0173, 128, 255)}, (kernel,))


def test_product_of_two_activations() -> None:
    rng = np.random.default_rng(11)
    graph = GraphBuilder()
    a = graph.quantize(graph.input("a", ["batch", 2, 5, 16]), "a_q", 0.0173, 128)
    b = graph.quantize(graph.input("b", ["batch", 2, 16, 7]), "b_q", 0.0273, 0)
    graph.output(graph.quantize(graph.node("MatMul", [a, b], "attention"), "c_q", 0.193, 128), rank=4)
    feeds = {
        "a": codes_as_floats(rng, (3, 2, 5, 16), 0.0173, 128, 255),
        "b": codes_as_floats(rng, (3, 2, 16, 7), 0.0273, 0, 255),
    }
    assert_agreement(graph.build(), feeds, ("QLinearMatMul",))


def test_wide_products_choose_a_wider_type() -> None:
    assert exact_type(2.0**24 - 1) is np.float32
    assert exact_type(2.0**24) is np.float64


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("size", [1, 2_000, 10_000, 40_000])
def test_chunks_of_the_batch_and_of_rows_give_the_same_sums(
    size: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(12)
    x, weights = rng.integers(-9, 9, (7, 4, *[11] * rank)), rng.integers(-9, 9, (6, 2, *[3] * rank))
    window = Window((3,) * rank, (2,) * rank, (1,) * rank, (1,) * rank, (1,) * rank)
    whole = convolve(x, weights, window, 2)
    assert whole.shape == (7, 6, *[6] * rank)
    monkeypatch.setattr("qkd_deploy.verification.reference.accumulate._COLUMN_BYTES", size)
    np.testing.assert_array_equal(convolve(x, weights, window, 2), whole)


def test_result_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(13)
    graph = conv_graph(rng, (4, 6, 6), rng.integers(-60, 60, (5, 4, 3, 3)))
    model, x = ReferenceModel(graph.build()), codes_as_floats(rng, (4, 4, 6, 6), 0.0173, 0, 255)
    whole = model.run({"x": x}).outputs
    for name, value in whole.items():
        parts = np.concatenate([model.run({"x": x[i : i + 1]}).outputs[name] for i in range(4)])
        np.testing.assert_array_equal(parts, value)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 9),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([0, 128, 240, 7]),
    st.sampled_from([1, 3, 4]),
)
def test_any_convolution(
    seed: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    pads: tuple[int, ...],
    strides: tuple[int, int],
    zero: int,
    groups: int,
) -> None:
    rng = np.random.default_rng(seed)
    shape = (inputs * groups, *(int(v) for v in rng.integers(5, 9, 2)))
    weights = rng.integers(-64, 65, (outputs * groups, inputs, *kernel))
    graph = conv_graph(
        rng, shape, weights, zero=zero, out_zero=zero, group=groups, pads=list(pads), strides=list(strides)
    )
    assert_agreement(graph.build(), {"x": codes_as_floats(rng, (2, *shape), 0.0173, zero, 255)})


@pytest.mark.parametrize("zeros", [(128, 128), (0, 0), (77, 201)])
@pytest.mark.parametrize(
    "shapes", [((2, 3, 17, 16), (2, 3, 16, 17)), ((1, 2, 5, 300), (1, 2, 300, 9)), ((2, 5, 1), (2, 1, 7))]
)
def test_product_of_two_activations_does_not_saturate(
    zeros: tuple[int, int], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Two products of the largest bytes do not fit 16 bits; with uint8 on both sides nothing is lost."""
    rng = np.random.default_rng(14)
    for low in (0, 255):
        graph, feeds = GraphBuilder(), {}
        operands = []
        for name, shape, zero in zip("ab", shapes, zeros, strict=True):
            graph.constant(f"{name}.scale", 0.013)
            graph.constant(f"{name}.zero_point", zero, np.uint8)
            codes = graph.input(name, ["batch", *shape[1:]], "uint8")
            operands.append(graph.dequantize(codes, name))
            feeds[name] = rng.choice([low, 255], shape).astype(np.uint8)
        scale = 0.013**2 * shapes[0][-1] * 400
        graph.output(graph.quantize(graph.node("MatMul", operands, "attention"), "c", scale, 128), rank=len(shapes[0]))
        assert_agreement(graph.build(metadata=False), feeds, ("QLinearMatMul",))

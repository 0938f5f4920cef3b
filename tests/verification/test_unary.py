"""Functions of one quantized tensor: QLinearSigmoid, QLinearLeakyRelu, relabelled codes and tables, over all codes."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_agreement
from graph_builder import GraphBuilder
from onnx import TensorProto

from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.unary_scale import portable_unary_scale

F32 = np.float32
ALL_CODES = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


def unary_graph(op: str, grids: tuple[float, int, float, int], **attributes: float) -> GraphBuilder:
    """uint8 codes -> DQ -> op -> Q -> DQ."""
    graph = GraphBuilder()
    codes = graph.input("codes", ["batch", 1, 16, 16], "uint8")
    graph.constant("codes.scale", grids[0])
    graph.constant("codes.zero_point", grids[1], np.uint8)
    value = graph.node(op, [graph.dequantize(codes, "codes")], "act", **attributes)
    graph.output(graph.quantize(value, "y", grids[2], grids[3]), rank=4)
    return graph


def random_grids(rng: np.random.Generator, count: int) -> list[tuple[float, int, float, int]]:
    """Every second one with round scales, which make ties, and odd zero points."""
    found = []
    for i in range(count):
        scales = rng.uniform(0.01, 0.3, 2).round(2 if i % 2 else 7)
        zeros = rng.integers(0, 256, 2) if i % 2 else rng.choice([0, 128], 2)
        found.append((float(F32(scales[0])), int(zeros[0]), float(F32(scales[1])), int(zeros[1])))
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def test_sigmoid_of_all_codes() -> None:
    """On agreed scales, as exports have them."""
    for scale, zero, out_scale, out_zero in random_grids(np.random.default_rng(0), 40):
        source = CodeRange(scale, zero, -zero, 255 - zero)
        out = CodeRange(out_scale / 64, out_zero, -out_zero, 255 - out_zero)
        agreed = portable_unary_scale(sigmoid, source, out, 1e-6, "act")
        graph = unary_graph("Sigmoid", (scale, zero, agreed, out_zero))
        assert_agreement(graph.build(metadata=False), {"codes": ALL_CODES}, ("QLinearSigmoid",))


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.25, 0.3])
def test_leaky_relu_of_all_codes(alpha: float) -> None:
    """With a true division: multiplying by the inverse of the scale would give other codes."""
    inexact = 0
    for grids in random_grids(np.random.default_rng(1), 30):
        graph = unary_graph("LeakyRelu", grids, alpha=alpha)
        result = assert_agreement(graph.build(metadata=False), {"codes": ALL_CODES}, ("QLinearLeakyRelu",))
        x = (ALL_CODES.astype(F32) - F32(grids[1])) * F32(grids[0])
        y = np.where(x < 0, F32(alpha) * x, x) * (F32(1) / F32(grids[2]))
        inexact += np.count_nonzero(np.clip(np.rint(y) + grids[3], 0, 255) != result.codes["y.quantized"])
    assert inexact


@pytest.mark.parametrize(("scale", "zero"), [(0.0237, 128), (0.05, 0), (6 / 256, 128)])
def test_hard_sigmoid_is_saturation_read_on_another_grid(scale: float, zero: int) -> None:
    """Codes of ``x + 0`` with step 6/256 around 128, read with step 1/256: then multiplied, as in a HardSwish."""
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 1, 16, 16]), "x_q", scale, zero)
    null = graph.node(
        "DequantizeLinear",
        [graph.constant("null", zero, np.uint8), "x_q.scale", "x_q.zero_point"],
        "null",
    )
    moved = graph.node("Add", [x, null], "moved")
    kept = [graph.constant("made.scale", 6 / 256), graph.constant("made.zero_point", 128, np.uint8)]
    codes = graph.node("QuantizeLinear", [moved, *kept], "gate")
    graph.constant("gate.scale", 1 / 256)
    graph.constant("gate.zero_point", 0, np.uint8)
    gate = graph.dequantize(codes, "gate")
    graph.output(graph.quantize(graph.node("Mul", [x, gate], "swish"), "y", 0.0213, 16), rank=4)
    floats = ((ALL_CODES.astype(int) - zero) * F32(scale)).astype(F32)
    result = assert_agreement(graph.build(), {"x": floats}, ("QLinearAdd", "QLinearMul"))
    exact = np.clip(floats.astype(np.float64) / 6 + 0.5, 0, 255 / 256) * 256
    assert np.abs(result.codes[codes] - exact).max() <= 0.5 + 1e-4


def test_any_function_is_a_table() -> None:
    """Codes are indices of a constant: whatever the table holds, the runtime looks it up on codes."""
    table = np.random.default_rng(2).permutation(256).astype(np.uint8)
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 1, 16, 16]), "x_q", 0.05, 128)
    assert x
    flat = graph.node("Reshape", ["x_q.quantized", graph.constant("flat", [-1], np.int64)], "flat")
    index = graph.node("Cast", [flat], "index", to=TensorProto.INT32)
    codes = graph.node("GatherElements", [graph.constant("act.Gelu.table", table, np.uint8), index], "act", axis=0)
    shaped = graph.node("Reshape", [codes, graph.constant("shape", [-1, 1, 16, 16], np.int64)], "shaped")
    graph.constant("y.scale", 0.03)
    graph.constant("y.zero_point", 10, np.uint8)
    graph.output(graph.dequantize(shaped, "y"), rank=4)
    floats = ((ALL_CODES.astype(int) - 128) * F32(0.05)).astype(F32)
    result = assert_agreement(graph.build(), {"x": floats}, ("GatherElements",))
    np.testing.assert_array_equal(result.codes[shaped], table[ALL_CODES])

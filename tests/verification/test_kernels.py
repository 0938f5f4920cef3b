"""Which kernels were built: integer ones, and float ones with module and reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from small_network import small_network

from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.verification.checks.kernels import list_kernels
from qkd_deploy.verification.findings import Kernel
from qkd_deploy.verification.runtime import optimized_graph


def kernels_of(model: onnx.ModelProto) -> list[Kernel]:
    return list_kernels(model, optimized_graph(model), read_metadata(model))


def floats_of(model: onnx.ModelProto) -> dict[str, str]:
    return {kernel.module: kernel.reason for kernel in kernels_of(model) if not kernel.integer}


def test_closed_network_runs_in_integers() -> None:
    kernels = kernels_of(small_network())
    assert all(kernel.integer for kernel in kernels)
    modules = [kernel.module for kernel in kernels]
    for module in ("stem", "low", "block.conv1", "block.conv2", "block.add", "pool", "gap", "fc"):
        assert module in modules
    assert sum(kernel.op == "QLinearConv" for kernel in kernels) == 3


def test_convolution_without_quantizer_is_named() -> None:
    assert floats_of(small_network(quantize_residual=False)) == {"block.conv2": "its output has no quantizer"}


def test_operator_without_integer_kernel_is_named() -> None:
    floats = floats_of(small_network(activation="HardSwish"))
    assert set(floats) == {"block.act"}
    assert "no integer kernel for HardSwish" in floats["block.act"]


def layer_graph(*, quantize_input: bool = True, readers: int = 1) -> onnx.ModelProto:
    graph, rng = GraphBuilder(), np.random.default_rng(0)
    x = graph.input("x", ["batch", 4, 5, 5])
    if quantize_input:
        x = graph.quantize(x, "x_q", 0.05, 128)
    weights = rng.integers(-63, 64, (4, 4, 3, 3))
    y = graph.node("Conv", [x, graph.weight("conv", weights, np.full(4, 0.01, np.float32))], "conv")
    graph.output(graph.quantize(y, "y", 0.5, 128), rank=4)
    if readers > 1:
        graph.output(graph.node("Relu", [y], "also"), rank=4)
    return graph.build()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantize_input": False}, "its input is not quantized"),
        ({"readers": 2}, "its output is read by others than one quantizer"),
    ],
)
def test_reasons(options: dict[str, bool | int], reason: str) -> None:
    assert floats_of(layer_graph(**options))["conv"] == reason  # type: ignore[arg-type]


def test_the_same_layer_in_its_closed_form_is_an_integer_kernel() -> None:
    assert floats_of(layer_graph()) == {}


def test_logits_of_an_integer_product_are_no_float_operator() -> None:
    """QGemm returns floats but multiplies integers."""
    assert [kernel.op for kernel in kernels_of(small_network()) if kernel.module == "fc"] == ["QGemm"]


def test_float_network_lists_every_operator() -> None:
    graph = GraphBuilder()
    x = graph.input("x", ["batch", 6])
    y = graph.node("Gemm", [x, graph.constant("fc1.weight", np.ones((6, 6)))], "fc1")
    y = graph.node("Softmax", [y], "probabilities")
    graph.output(y, rank=2)
    floats = floats_of(graph.build())
    assert floats == {"fc1": "its weights are not quantized", "probabilities": "its input is not quantized"}


def test_tables_and_maxima_of_codes_are_integer_kernels() -> None:
    """Beside the operators that only move codes, which are no kernels of their own."""
    graph, rng = GraphBuilder(), np.random.default_rng(0)
    graph.quantize(graph.input("x", ["batch", 4, 5, 5]), "x_q", 0.05, 128)
    pads = graph.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    padded = graph.node("Pad", ["x_q.quantized", pads, "x_q.zero_point"], "pad")
    flat = graph.node("Reshape", [padded, graph.constant("flat", [-1], np.int64)], "act")
    index = graph.node("Cast", [flat], "act", to=onnx.TensorProto.INT32)
    table = graph.constant("act.Gelu.table", rng.permutation(256), np.uint8)
    found = graph.node("GatherElements", [table, index], "act", axis=0)
    shaped = graph.node("Reshape", [found, graph.constant("shape", [-1, 4, 7, 7], np.int64)], "back")
    largest = graph.node("ReduceMax", [shaped, graph.constant("axes", [2, 3], np.int64)], "largest", keepdims=1)
    graph.output(graph.node("DequantizeLinear", [largest, "x_q.scale", "x_q.zero_point"], "end"), rank=4)
    kernels = [(kernel.op, kernel.integer) for kernel in kernels_of(graph.build())]
    assert kernels == [("GatherElements", True), ("ReduceMax", True)]

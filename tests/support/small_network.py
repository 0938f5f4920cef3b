"""A residual network of three convolutions in the exported form, with golden results, built by hand."""

from __future__ import annotations

import numpy as np
import onnx
from graph_builder import GraphBuilder

from qkd_deploy.export.metadata import Golden, GoldenInput, GoldenOutput, array_digest
from qkd_deploy.verification.reference.model import ReferenceModel

CLASSES = 5


def images(count: int, seed: int = 0) -> np.ndarray:
    """uint8 pixels [count, 3, 8, 8]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def normalised(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float32) - 128) / 64).astype(np.float32)


def small_network(
    *, quantize_residual: bool = True, activation: str | None = None, golden: bool = True, seed: int = 0
) -> onnx.ModelProto:
    """Stem, low-bit branch with a zero-add quantizer, residual Add, pools, classifier.

    ``quantize_residual=False`` leaves the branch's convolution without a quantizer; ``activation`` adds a float
    operator behind the Add.
    """
    graph = _graph(quantize_residual, activation, seed)
    if not golden:
        return graph.build()
    recipe = GoldenInput((2, 3, 8, 8), 0, 255, 128, 1 / 64)
    result = ReferenceModel(graph.build(metadata=False)).run({"x": recipe.array()})
    names = {record.value: record.name for record in graph.tensors}
    codes = {names[value]: array_digest(array) for value, array in result.codes.items() if value in names}
    return graph.build(Golden((recipe,), codes, tuple(map(GoldenOutput.of, result.outputs.values()))))


def _graph(quantize_residual: bool, activation: str | None, seed: int) -> GraphBuilder:
    rng = np.random.default_rng(seed)
    graph = GraphBuilder()

    def conv(x: str, name: str, kernel: tuple[int, ...], input_scale: float, **attributes: int) -> str:
        weights, scale = rng.integers(-63, 64, kernel), rng.uniform(0.002, 0.006, kernel[0])
        bias = rng.integers(-500, 500, kernel[0])
        pads = [1, 1, 1, 1]
        return graph.layer("Conv", x, name, weights, scale, input_scale=input_scale, bias=bias, pads=pads, **attributes)

    x = graph.quantize(graph.input("x", ["batch", 3, 8, 8]), "input", 1 / 64, 128)
    stem = graph.quantize(conv(x, "stem", (8, 3, 3, 3), 1 / 64), "stem", 0.0171, 0)
    zero = [graph.constant("low.zero", 0, np.uint8), "stem.scale", "stem.zero_point"]
    added = graph.node("Add", [stem, graph.node("DequantizeLinear", zero, "low.zero")], "low")
    low = graph.quantize(added, "low", 0.2143, 240)
    hidden = graph.quantize(conv(low, "block.conv1", (8, 8, 3, 3), 0.2143), "block.conv1", 0.3019, 0, hi=15)
    branch = conv(hidden, "block.conv2", (8, 1, 3, 3), 0.3019, group=8)
    if quantize_residual:
        branch = graph.quantize(branch, "block.conv2", 0.0237, 128)
    total = graph.quantize(graph.node("Add", [stem, branch], "block.add"), "block.add", 0.0283, 0)
    if activation:
        total = graph.quantize(graph.node(activation, [total], "block.act"), "block.act", 0.0281, 0)
    pooled = graph.quantize(
        graph.node("MaxPool", [total], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        "pool",
        0.0281 if activation else 0.0283,
        0,
    )
    mean = graph.quantize(graph.node("GlobalAveragePool", [pooled], "gap"), "gap", 0.0197, 0)
    flat = graph.node("Reshape", [mean, graph.constant("flatten.shape", [0, -1], np.int64)], "flatten")
    weights, bias = rng.integers(-63, 64, (CLASSES, 8)), rng.integers(-500, 500, CLASSES)
    scale = rng.uniform(0.002, 0.006, CLASSES)
    graph.output(graph.layer("Gemm", flat, "fc", weights, scale, input_scale=0.0197, bias=bias), rank=2)
    return graph

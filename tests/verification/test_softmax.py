"""QLinearSoftmax, over rows of random, peaked and equal codes."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_agreement
from graph_builder import GraphBuilder

CASES = {
    "attention": ((2, 3, 9, 197), -1),
    "classes": ((20, 1000), 1),
    "channels": ((3, 21, 5, 4), 1),
    "of two": ((40, 2), -1),
}


def softmax_graph(
    shape: tuple[int, ...], axis: int, scale: float, zero: int, out_scale: float, out_zero: int
) -> GraphBuilder:
    graph = GraphBuilder()
    codes = graph.input("codes", ["batch", *shape[1:]], "uint8")
    graph.constant("codes.scale", scale)
    graph.constant("codes.zero_point", zero, np.uint8)
    value = graph.node("Softmax", [graph.dequantize(codes, "codes")], "attention", axis=axis)
    graph.output(graph.quantize(value, "y", out_scale, out_zero), rank=len(shape))
    return graph


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [0.003, 0.05, 0.31])
@pytest.mark.parametrize(("out_scale", "out_zero"), [(1 / 256, 0), (1 / 16, 0), (0.0173, 128)])
def test_softmax(case: str, scale: float, out_scale: float, out_zero: int) -> None:
    shape, axis = CASES[case]
    rng = np.random.default_rng(0)
    peaked = np.clip(rng.normal(128, 40, shape), 0, 255)
    for codes in (peaked, rng.integers(0, 256, shape), np.full(shape, 255), rng.integers(0, 2, shape) * 255):
        model = softmax_graph(shape, axis, scale, 128, out_scale, out_zero).build(metadata=False)
        assert_agreement(model, {"codes": codes.astype(np.uint8)}, ("QLinearSoftmax",))


def test_only_scales_of_whole_parts_keep_their_meaning() -> None:
    """1 / 0.0173 is 57.8, and the kernel computes with 57; with 1/256 it gives the nearest code."""
    codes = np.random.default_rng(1).integers(0, 256, (64, 8)).astype(np.uint8)
    floats = (codes.astype(np.float64) - 128) * np.float32(0.02)
    exact = np.exp(floats) / np.exp(floats).sum(axis=1, keepdims=True)
    off = {}
    for scale in (0.0173, 1 / 256):
        model = softmax_graph(codes.shape, 1, 0.02, 128, scale, 0).build(metadata=False)
        result = assert_agreement(model, {"codes": codes}, ("QLinearSoftmax",))
        off[scale] = np.count_nonzero(result.codes["y.quantized"] != np.rint(exact / np.float32(scale)))
    assert off[1 / 256] == 0 < off[0.0173]

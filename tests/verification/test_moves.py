"""Operators that move codes: between quantizers, where ONNX Runtime leaves those out, and directly on codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from agreement import assert_agreement
from graph_builder import GraphBuilder

from qkd_deploy.verification.runtime import optimized_graph

Move = Callable[[GraphBuilder, str], str]


def _constant(graph: GraphBuilder, value: list[int] | int) -> str:
    return graph.constant(f"constant_{len(graph.constants)}", value, np.int64)


def _resize(coordinates: str, rounding: str, factor: float) -> Move:
    def move(graph: GraphBuilder, x: str) -> str:
        scales = graph.constant("scales", [1, 1, factor, factor])
        options = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        return graph.node("Resize", [x, "", scales], "resize", **options)

    return move


def _pad(mode: str) -> Move:
    def move(graph: GraphBuilder, x: str) -> str:
        fill = [graph.constant("fill", 128, np.uint8)] if mode == "constant" else []
        return graph.node("Pad", [x, _constant(graph, [0, 0, 1, 2, 0, 0, 0, 1]), *fill], "pad", mode=mode)

    return move


def _largest(op: str) -> Move:
    return lambda graph, x: graph.node(op, [x, _constant(graph, [2, 3])], "largest", keepdims=1)


def _shuffle(graph: GraphBuilder, x: str) -> str:
    groups = graph.node("Reshape", [x, _constant(graph, [-1, 2, 4, 6, 6])], "groups")
    turned = graph.node("Transpose", [groups], "turned", perm=[0, 2, 1, 3, 4])
    return graph.node("Reshape", [turned, _constant(graph, [-1, 8, 6, 6])], "shuffled")


def _slice(graph: GraphBuilder, x: str) -> str:
    return graph.node("Slice", [x, *(_constant(graph, [value]) for value in (-1, -100, 2, -2))], "slice")


def _join_constant(graph: GraphBuilder, x: str) -> str:
    token = graph.constant("token", np.full((2, 8, 1, 6), 77), np.uint8)
    return graph.node("Concat", [token, x], "join", axis=2)


ANYWHERE: dict[str, Move] = {
    "nearest": _resize("half_pixel", "floor", 2.0),
    "nearest, asymmetric": _resize("asymmetric", "floor", 3.0),
    "nearest, one and a half": _resize("half_pixel", "round_prefer_floor", 1.5),
    "largest": _largest("ReduceMax"),
    "least": _largest("ReduceMin"),
    "gather": lambda graph, x: graph.node("Gather", [x, _constant(graph, [3, 1, 0])], "gather", axis=1),
    "channel shuffle": _shuffle,
    "slice": _slice,
    "expand": lambda graph, x: graph.node("Expand", [x, _constant(graph, [3, 1, 8, 6, 6])], "expand"),
    "tile": lambda graph, x: graph.node("Tile", [x, _constant(graph, [1, 1, 2, 1])], "tile"),
    "depth to space": lambda graph, x: graph.node("DepthToSpace", [x], "pixels", blocksize=2),
    "unsqueeze": lambda graph, x: graph.node("Unsqueeze", [x, _constant(graph, [2])], "unsqueeze"),
}
ON_CODES: dict[str, Move] = {
    **{f"pad, {mode}": _pad(mode) for mode in ("constant", "reflect", "edge")},
    "space to depth": lambda graph, x: graph.node("SpaceToDepth", [x], "blocks", blocksize=2),
    "second half": lambda graph, x: graph.node("Split", [x], "halves", outputs=2, axis=1, num_outputs=2) + "_1",
    "join with a constant": _join_constant,
}


@pytest.mark.parametrize("on_codes", [True, False])
@pytest.mark.parametrize("case", ANYWHERE)
def test_moves(case: str, on_codes: bool) -> None:
    _assert_moved(ANYWHERE[case], on_codes, rank=5 if case in ("expand", "unsqueeze") else 4)


@pytest.mark.parametrize("case", ON_CODES)
def test_moves_on_codes(case: str) -> None:
    _assert_moved(ON_CODES[case], True, rank=4)


def _assert_moved(move: Move, on_codes: bool, rank: int) -> None:
    """Equal codes, and no codes become floats but those of the output."""
    graph = GraphBuilder()
    codes = graph.input("x", ["batch", 8, 6, 6], "uint8")
    graph.constant("x.scale", 0.05)
    graph.constant("x.zero_point", 128, np.uint8)
    if on_codes:
        moved = move(graph, codes)
    else:
        parameters = ["x.scale", "x.zero_point"]
        moved = graph.node("QuantizeLinear", [move(graph, graph.dequantize(codes, "x")), *parameters], "again")
    graph.constant("y.scale", 0.05)
    graph.constant("y.zero_point", 128, np.uint8)
    graph.output(graph.dequantize(moved, "y"), rank=rank)
    model = graph.build(metadata=False)
    feeds = {"x": np.random.default_rng(0).integers(0, 256, (2, 8, 6, 6)).astype(np.uint8)}
    result = assert_agreement(model, feeds)
    assert len(np.unique(result.outputs[model.graph.output[0].name])) > 8
    kernels = [node.op_type for node in optimized_graph(model).graph.node]
    assert kernels.count("DequantizeLinear") == 1
    assert "QuantizeLinear" not in kernels

"""Additions and multiplications of tensors of different shapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from agreement import assert_agreement
from graph_builder import GraphBuilder

from qkd_deploy.verification.reference import arithmetic
from qkd_deploy.verification.reference.rounding import Parameters

SHAPES = {
    "equal": ((2, 8, 5, 5), (2, 8, 5, 5)),
    "squeeze-excite": ((2, 16, 7, 7), (2, 16, 1, 1)),
    "squeeze-excite, gate first": ((2, 16, 1, 1), (2, 16, 7, 7)),
    "channels": ((2, 16, 3, 3), (1, 16, 1, 1)),
    "position embedding": ((2, 9, 12), (1, 9, 12)),
    "features": ((2, 9, 12), (12,)),
    "number": ((2, 33), ()),
    "one element each": ((1, 1), (1, 1)),
    "last axis is one": ((4, 3, 1), (4, 3, 1)),
    "last axis of one only": ((2, 3, 31), (2, 3, 1)),
    "both": ((2, 8, 4, 1), (2, 8, 1, 4)),
    "gate of pixels": ((2, 3, 8, 8), (2, 1, 8, 8)),
    "long": ((2, 1003), (2, 1003)),
}
# tie-prone scales and odd zero points: (a.scale, a.zero, b.scale, b.zero, c.scale, c.zero)
GRIDS = [(0.05, 3, 0.06, 77, 0.1, 201), (0.3, 128, 0.12, 0, 0.2, 7), (0.0131, 128, 0.0237, 0, 0.0317, 128)]


def graph_of(
    op: str, shapes: tuple[tuple[int, ...], ...], grid: tuple[float, ...], constant: np.ndarray | None
) -> onnx.ModelProto:
    graph, operands = GraphBuilder(), []
    for i, name in enumerate("ab"):
        if name == "b" and constant is not None:
            codes = graph.constant("b", constant, np.uint8)
        else:
            codes = graph.input(name, shapes[i], "uint8")
        graph.constant(f"{name}.scale", grid[2 * i])
        graph.constant(f"{name}.zero_point", grid[2 * i + 1], np.uint8)
        operands.append(graph.dequantize(codes, name))
    scale = grid[4] * (8 if op == "Mul" else 1)
    result = graph.quantize(graph.node(op, operands, "op"), "c", scale, int(grid[5]))
    graph.output(result, rank=len(np.broadcast_shapes(*shapes)))
    return graph.build(metadata=False)


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("case", SHAPES)
def test_broadcast(op: str, case: str) -> None:
    shapes = SHAPES[case]
    rng = np.random.default_rng(0)
    for grid in GRIDS:
        codes = [np.asarray(rng.integers(0, 256, shape), np.uint8) for shape in shapes]
        for constant in (None, codes[1]):
            feeds = dict(zip("ab", codes[: 1 if constant is not None else 2], strict=False))
            assert_agreement(graph_of(op, shapes, grid, constant), feeds, (f"QLinear{op}",))


@pytest.mark.parametrize(("shapes", "swapped"), [(((64, 1), (64, 2)), True), (((64, 2), (64, 1)), False)])
def test_a_broadcast_first_operand_changes_places(shapes: tuple[tuple[int, int], ...], swapped: bool) -> None:
    """The order of two fused multiply-adds decides ties; only codes where it does are used here."""
    grid = (0.1, 253, 0.14, 148, 0.12, 139)
    a, b, out = (Parameters(np.array(grid[i], np.float32), np.array(grid[i + 1], np.uint8)) for i in (0, 2, 4))
    straight, turned = arithmetic.add_table(a, b, out), arithmetic.add_table(b, a, out).T
    pairs = np.argwhere(straight != turned)
    assert len(pairs) > 64
    codes = [np.repeat(pairs[:64, i : i + 1], shapes[i][1], axis=1).astype(np.uint8) for i in (0, 1)]
    result = assert_agreement(graph_of("Add", shapes, grid, None), dict(zip("ab", codes, strict=True)), ("QLinearAdd",))
    expected = (turned if swapped else straight)[codes[0], codes[1]]
    np.testing.assert_array_equal(result.codes["c.quantized"], expected)

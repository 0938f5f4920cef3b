"""Which part of its operands every kind of node needs, to compute a part of its result."""

from __future__ import annotations

import pytest
from graph_text import parse_graph
from torch import nn

from qkd_deploy.graph.ir import Graph
from qkd_deploy.graph.ops import OPERATORS, operator_of

MODEL = nn.ModuleDict({"drop": nn.Dropout(), "drop_channels": nn.Dropout1d()})
OPERANDS = """
    %x: f32[2?, 6, 4] = input()
    %y: f32[2?, 6, 4] = input()
    %column: f32[6, 1] = constant()
    %square: f32[2?, 4, 4] = input()
    """
RULES = {
    "[2?, 6, 4] = add(%x, %y)": ({"x": 1, "y": 1}, {"x": 2, "y": 2}),
    "[2?, 6, 4] = mul(%x, %column)": ({"x": 1, "column": 0}, {"x": 2}),
    "[2?, 6, 8] = concat([%x, %y], dim=2)": ({"x": 1, "y": 1}, {}),
    "[2?, 12, 4] = concat([%x, %y], dim=1)": ({}, {"x": 2, "y": 2}),
    "[2?, 6, 4] = sigmoid(%x)": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = tanh(%x)": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = hard_sigmoid(%x)": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = lookup(%x) {target='gelu'}": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = clip(%x) {clip=(0.0, inf)}": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = rescale(%x, factor=2.0)": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = leaky_relu(%x, %column)": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = dropout(%x) {target='drop'}": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = dropout(%x) {target=torch.nn.functional.dropout}": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = dropout(%x) {target=torch.dropout}": ({"x": 1}, {"x": 2}),
    "[2?, 6, 4] = dropout(%x) {target='drop_channels'}": ({}, {}),
    "[2?, 6, 4] = dropout(%x) {target=torch.nn.functional.dropout1d}": ({}, {}),
    "[2?, 6, 4] = layer_norm(%x, None, %column)": ({"x": 1}, {}),
    "[2?, 6, 4] = softmax(%x)": ({"x": 1}, {}),
    "[2?, 6, 4] = linear(%x)": ({"x": 1}, {}),
    "[2?, 6, 4] = linear(%x) {batch_norm='bn'}": ({}, {}),
    "[2?, 6, 4] = matmul(%x, %square)": ({"x": 1}, {"square": 2}),
    "[2?, 4, 4] = matmul(%square, %square)": ({}, {}),
    "[2?, 4, 6] = transpose(%x, dims=(0, 2, 1))": ({"x": 2}, {"x": 1}),
    "[2?, 6, 2, 2] = reshape(%x, (-1, 6, 2, 2))": ({"x": 1}, {}),
    "[2?, 24, 1] = reshape(%x, (-1, 24))": ({}, {}),
    "[2?, 6?, 4] = reshape(%x)": ({}, {}),
}


def dims_to_slice(graph: Graph, dim: int) -> dict[str, int]:
    """Which dimension of which operand makes a slice of the node ``f`` along ``dim``."""
    node = graph.node("f")
    rule = operator_of(node).slices
    return {} if rule is None else rule(MODEL, node, [graph.node(name) for name in node.inputs], dim)


@pytest.mark.parametrize(("line", "expected"), RULES.items())
def test_rows_and_columns_of_results_need_these_of_operands(line: str, expected: tuple[dict[str, int], ...]) -> None:
    graph = parse_graph(f"{OPERANDS}%f: f32{line}\nreturn %f")
    assert tuple(dims_to_slice(graph, dim) for dim in (1, 2)) == expected


@pytest.mark.parametrize("kind", sorted({*OPERATORS} - {line.split(" = ")[1].split("(")[0] for line in RULES}))
def test_nothing_else_is_computed_in_part(kind: str) -> None:
    graph = parse_graph(f"{OPERANDS}%f: f32[2?, 6, 4] = {kind}(%x)\nreturn %f")
    assert dims_to_slice(graph, 1) == {}


def test_leading_dimensions_of_a_product_are_both_operands() -> None:
    graph = parse_graph("""
        %x: f32[2?, 3, 6, 4] = input()
        %y: f32[3, 4, 5] = constant()
        %f: f32[2?, 3, 6, 5] = matmul(%x, %y)
        return %f
        """)
    assert dims_to_slice(graph, 1) == {"x": 1, "y": 0}

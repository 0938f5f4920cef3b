"""Functions of single elements; all results are known, and the cheapest form that gives them is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import dequantized, quantized, step
from qkd_deploy.export.litert.grid import Grid, true_grid
from qkd_deploy.export.litert.tables import Table, all_codes, as_line, gathered, table_of
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.activations import slope_of

_MARGIN = 1e-3
"""Of a rounding tie, in steps: what a kernel's table in float32 is off by is far less."""
_FLOATS = {"sigmoid": "LOGISTIC", "tanh": "TANH"}
_TABLES: dict[str, tuple[str, float, int, Callable[[np.ndarray], np.ndarray]]] = {
    "sigmoid": ("LOGISTIC", 2.0**-8, -128, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": ("TANH", 2.0**-7, 0, np.tanh),
}
"""Kernels that look results up: their names, the label and the zero that they demand, and what they compute."""


def emit_function(ctx: LiteContext, node: Node) -> Value:
    """A function of codes, with a quantizer."""
    value = ctx.values[node.inputs[0]]
    if node.quantizer is None or value.grid is None:
        return _in_float(ctx, node, value)
    table = _results(ctx, node, value.grid)
    ratio, shift = _line(value.grid, table)
    made = as_line(ctx, node.name, value.index, value.grid, table, ratio, shift)
    made = made or _kernel(ctx, node, value, table) or gathered(ctx, node.name, value.index, value.grid, table)
    index, grid = made
    return Value(index, grid, value.last)


def emit_leaky_relu(ctx: LiteContext, node: Node) -> Value:
    """In float32, in which product and quotient are rounded as in the integer model."""
    value, options = ctx.values[node.inputs[0]], schema.LeakyReluOptionsT()
    options.alpha = slope_of(ctx.frozen.network, ctx.frozen.graph, node)
    index = value.index if value.grid is None else dequantized(ctx, value.index, value.grid)
    made = step(ctx, node.name, "LEAKY_RELU", [index], options)
    if node.quantizer is None:
        return Value(made, None, value.last)
    return quantized(ctx, node.name, made, ctx.params(node), last=value.last)


def _results(ctx: LiteContext, node: Node, x: Grid) -> Table:
    """What the integer model gives for every code."""
    known = {**ctx.constants, node.inputs[0]: all_codes(x)}
    return table_of(x, ctx.frozen.evaluate_constant(node, known))


def _line(x: Grid, table: Table) -> tuple[float, int]:
    """The slope and the shift of a table that may be a line: both from the codes that are not cut."""
    inner = np.flatnonzero((table.result > table.params.lo) & (table.result < table.params.hi))
    plain = x.scale / table.params.scale.item()
    if len(inner) < 2 or not 0 < np.abs(table.result[inner] - table.operand[inner] * plain).max() > 1:
        return float(np.float32(x.scale) / np.float32(table.params.scale.item())), 0
    slope, shift = np.polyfit(table.operand[inner], table.result[inner], 1)
    return float(slope), round(float(shift))


def _kernel(ctx: LiteContext, node: Node, value: Value, table: Table) -> tuple[int, Grid] | None:
    """A kernel that looks the function up, where it is sure to find these results."""
    if node.kind not in _TABLES or value.grid is None:
        return None
    code, label, zero, function = _TABLES[node.kind]
    y = replace(true_grid(table.params), label=label)
    steps = function(table.operand.astype(np.float64) * np.float32(value.grid.label)) / label
    sure = np.abs(steps - np.floor(steps) - 0.5).min() > _MARGIN
    bytes_of = (np.rint(steps) + zero).clip(-128, 127)
    if not (sure and value.grid.is_true and np.array_equal(bytes_of, table.result + y.zero)):
        return None
    made = ctx.codes(node.name, ctx.file.shapes[value.index], replace(y, zero=zero))
    ctx.file.operator(code, [value.index], [made])
    return made, y


def _in_float(ctx: LiteContext, node: Node, value: Value) -> Value:
    """A function behind the last integer kernels."""
    index = value.index if value.grid is None else dequantized(ctx, value.index, value.grid)
    if node.kind not in ("clip", "requantize"):
        if node.kind not in _FLOATS or node.quantizer is not None:
            raise unsupported(node, "its operand or result is in float")
        index = step(ctx, node.name, _FLOATS[node.kind], [index])
    if node.quantizer is None:
        return Value(index, None, value.last)
    return quantized(ctx, node.name, index, ctx.params(node), last=value.last)


EMITTERS = {
    **dict.fromkeys(("clip", "requantize", "sigmoid", "tanh", "hard_sigmoid", "lookup"), emit_function),
    "leaky_relu": emit_leaky_relu,
}

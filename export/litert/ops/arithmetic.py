"""Sums, products and other scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.additions import exact_label, is_quantized_exactly
from qkd_deploy.export.litert.context import LiteContext, Value
from qkd_deploy.export.litert.floats import dequantized, quantized, step, with_number, written
from qkd_deploy.export.litert.grid import Grid, is_whole, neighbours, true_grid
from qkd_deploy.export.litert.kernels import cut, relabelled
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.quantized import QuantParams

_TRIED = 64


def emit_add(ctx: LiteContext, node: Node) -> Value:
    """Add in fixed point where all pairs of codes are proven to give the right sum, else in float32."""
    names = node.inputs[0], node.inputs[-1]
    indices, last = ctx.aligned(names)
    a, b = (ctx.values[name].grid for name in names)
    if node.quantizer is None or a is None or b is None:
        return _in_float(ctx, node, "ADD", indices, last=last)
    params, same = ctx.params(node), names[0] == names[1]
    return _fixed_point_sum(ctx, node, indices, (a, b), params, last=last, same=same) or _float_sum(
        ctx, node, indices, (a, b), params, last=last, same=same
    )


def _fixed_point_sum(
    ctx: LiteContext,
    node: Node,
    indices: list[int],
    grids: tuple[Grid, Grid],
    params: QuantParams,
    *,
    last: bool,
    same: bool,
) -> Value | None:
    """A sum of codes; None where the kernel would round some of them otherwise."""
    wanted = _near_truth(grids[0]), _near_truth(grids[1])
    label = exact_label(*wanted, true_grid(params), same=same)
    if label is None:
        return None
    operands = [relabelled(ctx, *given)[0] for given in zip(indices, grids, wanted, strict=True)]
    y = replace(true_grid(params), label=label)
    return cut(ctx, _binary(ctx, node, "ADD", operands, y), y, params, last=last)


def _float_sum(
    ctx: LiteContext,
    node: Node,
    indices: list[int],
    grids: tuple[Grid, Grid],
    params: QuantParams,
    *,
    last: bool,
    same: bool,
) -> Value:
    """A sum of floats, each rounded as in the integer model."""
    floats = [dequantized(ctx, index, grid) for index, grid in zip(indices, grids, strict=True)]
    made, y = step(ctx, node.name, "ADD", floats), true_grid(params)
    if is_whole(y) and is_quantized_exactly(*grids, y.scale, same=same):
        return written(ctx, node.name, made, y, last=last)
    return quantized(ctx, node.name, made, params, last=last)


def _near_truth(grid: Grid) -> Grid:
    """The grid of an operand of a sum: its label stays where it is next to its scale."""
    return grid if abs(grid.label / grid.scale - 1) < 2.0**-16 else replace(grid, label=grid.scale, cut="NONE")


def emit_mul(ctx: LiteContext, node: Node) -> Value:
    """Multiply in integers: ``rint(f32(a * b) * f32(f32(s_a * s_b) / s_y))``, as ONNX Runtime."""
    names = node.inputs[0], node.inputs[-1]
    indices, last = ctx.aligned(names)
    a, b = (ctx.values[name].grid for name in names)
    label = None
    if node.quantizer is not None and a is not None and b is not None:
        label = product_label(a, b, ctx.params(node).scale.item())
    if label is None:
        return _in_float(ctx, node, "MUL", indices, last=last)
    params = ctx.params(node)
    y = replace(true_grid(params), label=label)
    return cut(ctx, _binary(ctx, node, "MUL", indices, y), y, params, last=last)


def product_label(a: Grid, b: Grid, scale: float) -> float | None:
    """A label of the product with which the kernel multiplies by what the scales say; None where there is none."""
    wanted = np.float32(a.scale) * np.float32(b.scale) / np.float32(scale)
    product = np.float32(a.label) * np.float32(b.label)
    labels = neighbours(scale if a.is_true and b.is_true else float(product / wanted), _TRIED)
    return next((label for label in labels if product / np.float32(label) == wanted), None)


def _binary(ctx: LiteContext, node: Node, code: str, operands: list[int], y: Grid) -> int:
    shape = np.broadcast_shapes(*(ctx.file.shapes[index] for index in operands))
    made = ctx.codes(node.name, shape, y)
    options = schema.AddOptionsT() if code == "ADD" else schema.MulOptionsT()
    ctx.file.operator(code, operands, [made], options)
    return made


def _in_float(ctx: LiteContext, node: Node, code: str, indices: list[int], *, last: bool) -> Value:
    """Compute with floats, and quantize the result where the node has a quantizer."""
    floats = []
    for index, name in zip(indices, (node.inputs[0], node.inputs[-1]), strict=True):
        grid = ctx.values[name].grid
        floats.append(index if grid is None else dequantized(ctx, index, grid))
    made = step(ctx, node.name, code, floats)
    if node.quantizer is None:
        return Value(made, None, last)
    return quantized(ctx, node.name, made, ctx.params(node), last=last)


def emit_rescale(ctx: LiteContext, node: Node) -> Value:
    """Multiply by a positive number: the same codes, which stand for something else."""
    value = ctx.values[node.inputs[0]]
    if value.grid is None:
        return Value(with_number(ctx, node.name, "MUL", value.index, node.kwargs["factor"]), None, value.last)
    return replace(value, grid=replace(value.grid, params=ctx.frozen.grid(module_key(node.name))))


EMITTERS = {"add": emit_add, "mul": emit_mul, "rescale": emit_rescale}

"""Movement of elements: their codes stay, and what the file says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value
from qkd_deploy.export.litert.floats import dequantized, quantized
from qkd_deploy.export.litert.grid import Grid, true_grid
from qkd_deploy.export.litert.kernels import relabelled
from qkd_deploy.export.litert.tables import all_codes, as_line, table_of
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.quantized import QuantizedTensor

_LAST = {4: (0, 3, 1, 2), 3: (0, 2, 1)}
"""Where dimensions are that the network knows by number, with channels last."""


def emit_same(ctx: LiteContext, node: Node) -> Value:
    """What is nothing at inference."""
    return ctx.values[node.inputs[0]]


def emit_reshape(ctx: LiteContext, node: Node) -> Value:
    """The same elements in another shape."""
    grid = ctx.values[node.inputs[0]].grid
    return Value(ctx.reshaped(ctx.natural(node.inputs[0]), ctx.sizes(node), grid), grid)


def emit_transpose(ctx: LiteContext, node: Node) -> Value:
    """The dimensions in another order."""
    grid = ctx.values[node.inputs[0]].grid
    return Value(ctx.transposed(ctx.natural(node.inputs[0]), node.kwargs["dims"], grid), grid)


def place(value: Value, rank: int, dim: int) -> int:
    """Where a dimension of the network's is in the file."""
    return _LAST[rank][dim] if value.last else dim


def in_place(value: Value, rank: int, by_dim: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs by dimension, in the order of the file."""
    made = [(0, 0)] * rank
    for dim, pair in enumerate(by_dim):
        made[place(value, rank, dim)] = pair
    return made


# -- parts -------------------------------------------------------------------------------------------------------------


def emit_slice(ctx: LiteContext, node: Node) -> Value:
    """Every step-th element of some dimensions."""
    value = ctx.values[node.inputs[0]]
    index = value.index
    for dim, start, stop, stride in node.kwargs["ranges"]:
        index = sliced(ctx, index, value.grid, place(value, len(node.sizes), dim), range(start, stop, stride))
    return Value(index, value.grid, value.last)


def sliced(ctx: LiteContext, index: int, grid: Grid | None, axis: int, kept: range) -> int:
    """Elements at regular places of one dimension."""
    shape = ctx.file.shapes[index]
    if len(kept) == shape[axis] and kept.step == 1:
        return index
    begin, end, steps = [0] * len(shape), list(shape), [1] * len(shape)
    begin[axis], end[axis], steps[axis] = kept.start, kept.stop, kept.step
    sizes = tuple(len(kept) if dim == axis else size for dim, size in enumerate(shape))
    made = ctx.like(index, sizes, grid, "part")
    if kept.step == 1:
        bounds = [begin, list(sizes)]
        options = schema.SliceOptionsT()
    else:
        bounds, options = [begin, end, steps], schema.StridedSliceOptionsT()
    constants = [ctx.file.constant("bounds", np.array(bound, np.int32)) for bound in bounds]
    ctx.file.operator("SLICE" if kept.step == 1 else "STRIDED_SLICE", [index, *constants], [made], options)
    return made


def emit_index(ctx: LiteContext, node: Node) -> Value:
    """Elements at listed places of one dimension."""
    value, given = ctx.values[node.inputs[0]], node.kwargs["positions"]
    places = np.asarray(ctx.constants[given.name] if isinstance(given, Ref) else given)
    axis = place(value, len(node.sizes), node.kwargs["dim"])
    shape = list(ctx.file.shapes[value.index])
    places, shape[axis] = places % shape[axis], len(places)
    made, options = ctx.like(value.index, shape, value.grid, "gathered"), schema.GatherOptionsT()
    options.axis = axis
    ctx.file.operator("GATHER", [value.index, ctx.file.constant("places", places.astype(np.int32))], [made], options)
    return Value(made, value.grid, value.last)


# -- several -----------------------------------------------------------------------------------------------------------


def emit_concat(ctx: LiteContext, node: Node) -> Value:
    """One behind the other, after each operand was brought to the grid of the result."""
    indices, last = ctx.aligned(node.inputs)
    rank, parts = len(node.sizes), []
    for name, index in zip(node.inputs, indices, strict=True):
        grid = ctx.values[name].grid
        parts.append(index if node.quantizer is None and grid is None else _on_grid(ctx, node, index, grid))
    y = None if node.quantizer is None else true_grid(ctx.params(node))
    axis = place(Value(0, None, last), rank, node.kwargs["dim"])
    return Value(joined(ctx, node.name, parts, axis, y), y, last)


def _on_grid(ctx: LiteContext, node: Node, index: int, x: Grid | None) -> int:
    """An operand of a concatenation on the grid of the result."""
    if node.quantizer is None:
        assert x is not None
        return dequantized(ctx, index, x)
    params = ctx.params(node)
    y = true_grid(params)
    if x is None:
        return quantized(ctx, node.name, index, params).index
    codes = all_codes(x)
    table = table_of(x, QuantizedTensor(params.quantize(codes.real()), params))
    name = f"{ctx.file.tensors[index].name}.of.{node.name}"
    if x.params.scale != params.scale or not np.array_equal(table.operand, table.result):
        made = as_line(ctx, name, index, x, table, float(np.float32(x.scale) / np.float32(y.scale)))
        if made is None:
            return quantized(ctx, name, dequantized(ctx, index, x), params).index
        index, x = made
    return relabelled(ctx, index, x, y)[0]


def joined(ctx: LiteContext, name: str, parts: Sequence[int], axis: int, grid: Grid | None) -> int:
    """Tensors on one grid, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    shape = list(ctx.file.shapes[parts[0]])
    shape[axis] = sum(ctx.file.shapes[part][axis] for part in parts)
    made = ctx.file.tensor(name, shape) if grid is None else ctx.codes(name, shape, grid)
    options = schema.ConcatenationOptionsT()
    options.axis = axis
    ctx.file.operator("CONCATENATION", parts, [made], options)
    return made


def emit_roll(ctx: LiteContext, node: Node) -> Value:
    """The end in front of the beginning, dimension by dimension."""
    value = ctx.values[node.inputs[0]]
    index = value.index
    for shift, dim in zip(node.kwargs["shifts"], node.kwargs["dims"], strict=True):
        axis = place(value, len(node.sizes), dim)
        size = ctx.file.shapes[index][axis]
        at = (-shift) % size
        if at:
            ends = [sliced(ctx, index, value.grid, axis, kept) for kept in (range(at, size), range(at))]
            index = joined(ctx, f"{node.name}.{dim}", ends, axis, value.grid)
    return Value(index, value.grid, value.last)


def emit_expand(ctx: LiteContext, node: Node) -> Value:
    """Repeat dimensions of one element."""
    value, sizes = ctx.values[node.inputs[0]], ctx.sizes(node)
    index = ctx.natural(node.inputs[0])
    shape = ctx.file.shapes[index]
    index = ctx.reshaped(index, (1,) * (len(sizes) - len(shape)) + shape, value.grid)
    for dim, size in enumerate(sizes):
        if ctx.file.shapes[index][dim] != size:
            index = joined(ctx, f"{node.name}.{dim}", [index] * size, dim, value.grid)
    return Value(index, value.grid)


EMITTERS = {
    "dropout": emit_same,
    "reshape": emit_reshape,
    "transpose": emit_transpose,
    "slice": emit_slice,
    "index": emit_index,
    "concat": emit_concat,
    "roll": emit_roll,
    "expand": emit_expand,
}

"""Borders around tensors."""

from __future__ import annotations

import numpy as np

from qkd_deploy.export.litert.context import LiteContext, Value
from qkd_deploy.export.litert.grid import Grid
from qkd_deploy.export.litert.kernels import padded
from qkd_deploy.export.litert.ops.movement import in_place, joined, sliced
from qkd_deploy.graph.ir import Node


def emit_pad(ctx: LiteContext, node: Node) -> Value:
    """Zeros around a tensor, or its own elements."""
    value, rank = ctx.values[node.inputs[0]], len(node.sizes)
    amounts = in_place(value, rank, node.kwargs["amounts"])
    if node.kwargs["mode"] == "constant":
        return Value(padded(ctx, value.index, amounts, value.grid), value.grid, value.last)
    index = value.index
    for axis, pair in enumerate(amounts):
        if any(pair):
            index = own_border(ctx, f"{node.name}.{axis}", index, value.grid, axis, pair, node.kwargs["mode"])
    return Value(index, value.grid, value.last)


def own_border(
    ctx: LiteContext, name: str, index: int, grid: Grid | None, axis: int, pair: tuple[int, int], mode: str
) -> int:
    """Repeat the outermost elements of a dimension, or (``reflect``) those next to them in reverse order."""
    size = ctx.file.shapes[index][axis]
    before, after = range(-pair[0], 0), range(size, size + pair[1])
    if mode == "reflect":
        places = [*(-at for at in before), *range(size), *(2 * size - 2 - at for at in after)]
    else:
        places = [*(0 for _ in before), *range(size), *(size - 1 for _ in after)]
    own = range(size)
    parts = [sliced(ctx, index, grid, axis, range(at, at + 1)) for at in places[: pair[0]]]
    parts += [sliced(ctx, index, grid, axis, own)]
    parts += [sliced(ctx, index, grid, axis, range(at, at + 1)) for at in places[pair[0] + size :]]
    return joined(ctx, name, parts, axis, grid)


def emit_border(ctx: LiteContext, node: Node) -> Value:
    """A border with a value for each channel: constants in front of and behind the image."""
    grid = ctx.known_grid(node.inputs[0], node)
    index = ctx.laid_out(node.inputs[0], last=True)
    amounts = in_place(Value(index, grid, last=True), len(node.sizes), node.kwargs["amounts"])
    params = grid.params
    bytes_of = params.quantize(params.scale.new_tensor(node.kwargs["values"])).cpu().numpy() + grid.zero
    for axis, pair in enumerate(amounts):
        around = [index]
        for amount, at in zip(pair, (0, 2), strict=True):
            if amount:
                shape = [*ctx.file.shapes[index]]
                shape[axis] = amount
                fill = np.broadcast_to(bytes_of.astype(np.int8), shape)
                around.insert(at, ctx.file.constant("border", fill, scale=grid.label, zero_point=grid.zero))
        index = joined(ctx, f"{node.name}.{axis}", around, axis, grid)
    return Value(index, grid, last=True)


EMITTERS = {"pad": emit_pad, "border": emit_border}

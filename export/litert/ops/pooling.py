"""Pools."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import dequantized, from_steps, step, with_number
from qkd_deploy.export.litert.grid import LEAST, Grid, made_grid
from qkd_deploy.export.litert.kernels import Geometry, Weights, convolved, padded
from qkd_deploy.export.litert.ops.movement import sliced
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import POOL_CODE, pool_weight_scale


def emit_global_avg_pool(ctx: LiteContext, node: Node) -> Value:
    """The mean of every channel, as a depthwise convolution with one window and weights of 1."""
    source, params = ctx.known_grid(node.inputs[0], node), ctx.params(node)
    window = ctx.file.shapes[ctx.image(node.inputs[0])][1:3]
    multiplier = np.float32(source.scale) / (np.float32(params.scale.item()) * np.float32(np.prod(window)))
    return _weighted(ctx, node, window, 1, multiplier, Geometry())


def emit_avg_pool(ctx: LiteContext, node: Node) -> Value:
    """Full windows, as the integer model has them: a depthwise convolution."""
    source, params, window = ctx.known_grid(node.inputs[0], node), ctx.params(node), node.kwargs["kernel_size"]
    product = np.float32(source.scale) * np.float32(pool_weight_scale(window))
    multiplier = product / np.float32(params.scale.item())
    return _weighted(ctx, node, _two(window, 1), POOL_CODE, multiplier, _geometry(node))


def _weighted(
    ctx: LiteContext, node: Node, window: Sequence[int], code: int, multiplier: np.float32, geometry: Geometry
) -> Value:
    """Convolve every channel with equal weights."""
    image, source = ctx.image(node.inputs[0]), ctx.known_grid(node.inputs[0], node)
    channels = ctx.file.shapes[image][3]
    weights = Weights(
        np.full((channels, 1, *window), code, np.int8),
        np.zeros(channels, np.int32),
        np.full(channels, multiplier, np.float32),
        copies=1,
    )
    made, grid = convolved(ctx, node.name, image, source, made_grid(ctx.params(node)), weights, geometry)
    return Value(_in_rank(ctx, node, made, grid), grid, last=True)


def emit_max_pool(ctx: LiteContext, node: Node) -> Value:
    """The largest code of every window; borders are padded with the least one."""
    options, image, grid = node.kwargs, ctx.image(node.inputs[0]), ctx.values[node.inputs[0]].grid
    if any(size != 1 for size in options["dilation"]):
        raise unsupported(node, "its windows have holes")
    geometry, window = _geometry(node), _two(options["kernel_size"], 1)
    sizes = _two(ctx.sizes(node)[2:], 1)
    pads = _pads(geometry, sizes, window, ctx.file.shapes[image][1:3])
    if any(map(any, pads)):
        image = _with_least(ctx, node, image, pads, grid)
    pool = schema.Pool2DOptionsT()
    pool.padding, (pool.strideH, pool.strideW) = schema.Padding.VALID, geometry.strides
    pool.filterHeight, pool.filterWidth = window
    shape = (1, *sizes, ctx.file.shapes[image][3])
    made = ctx.file.tensor(node.name, shape) if grid is None else ctx.codes(node.name, shape, grid)
    ctx.file.operator("MAX_POOL_2D", [image], [made], pool)
    return Value(_in_rank(ctx, node, made, grid), grid, last=True)


def _pads(
    geometry: Geometry, sizes: Sequence[int], window: Sequence[int], given: Sequence[int]
) -> list[tuple[int, int]]:
    """What windows reach beyond an image, in front and behind."""
    spatial = zip(geometry.pads, sizes, geometry.strides, window, given, strict=True)
    return [(pad, max((out - 1) * stride + size - n - pad, 0)) for (pad, _), out, stride, size, n in spatial]


def _with_least(ctx: LiteContext, node: Node, image: int, pads: list[tuple[int, int]], grid: Grid | None) -> int:
    """Pad with what is no larger than any element."""
    if grid is None:
        raise unsupported(node, "it pads floats")
    amounts = ((0, 0), *pads, (0, 0))
    if grid.limits[0] == grid.zero:
        return padded(ctx, image, amounts, grid)
    sizes = tuple(size + sum(pair) for size, pair in zip(ctx.file.shapes[image], amounts, strict=True))
    made = ctx.codes(f"{node.name}.padded", sizes, grid)
    least = ctx.file.constant("least", np.array([LEAST], np.int8), scale=grid.label, zero_point=grid.zero)
    given = [image, ctx.file.constant("pads", np.array(amounts, np.int32)), least]
    ctx.file.operator("PADV2", given, [made], schema.PadV2OptionsT())
    return made


def emit_uneven_avg_pool(ctx: LiteContext, node: Node) -> Value:
    """The mean of what a window holds of the image: tap by tap in float32, as ONNX Runtime adds them."""
    source, params, name = ctx.known_grid(node.inputs[0], node), ctx.params(node), node.name
    image, window, geometry = ctx.image(node.inputs[0]), _two(node.kwargs["kernel_size"], 1), _geometry(node)
    given, sizes = ctx.file.shapes[image][1:3], _two(ctx.sizes(node)[2:], 1)
    pads = _pads(geometry, sizes, window, given)
    index = padded(ctx, dequantized(ctx, image, source), ((0, 0), *pads, (0, 0)), None)
    ones, total, count = np.pad(np.ones(given, np.float32), pads), None, np.zeros(sizes, np.float32)
    for at in np.ndindex(*window):
        rows, columns = (
            range(first, first + (out - 1) * stride + 1, stride)
            for first, out, stride in zip(at, sizes, geometry.strides, strict=True)
        )
        tap = sliced(ctx, sliced(ctx, index, None, 1, rows), None, 2, columns)
        total = tap if total is None else step(ctx, name, "ADD", [total, tap])
        count += ones[np.ix_(rows, columns)]
    assert total is not None
    means = with_number(ctx, name, "DIV", total, count[None, :, :, None])
    stored = with_number(ctx, name, "ADD", with_number(ctx, name, "DIV", means, params.scale.item()), params.zero_point)
    whole = with_number(ctx, name, "SUB", step(ctx, name, "ROUND", [stored]), params.zero_point)
    made = from_steps(ctx, name, whole, params, last=True)
    return Value(_in_rank(ctx, node, made.index, made.grid), made.grid, last=True)


def emit_extreme(ctx: LiteContext, node: Node) -> Value:
    """The largest or smallest code along dimensions."""
    index, value = ctx.natural(node.inputs[0]), ctx.values[node.inputs[0]]
    options = schema.ReducerOptionsT()
    options.keepDims = node.kwargs["keepdim"]
    made = ctx.like(index, ctx.sizes(node), value.grid, node.kind)
    axes = ctx.file.constant("axes", np.array(node.kwargs["dim"], np.int32))
    ctx.file.operator("REDUCE_MAX" if node.kind == "amax" else "REDUCE_MIN", [index, axes], [made], options)
    return Value(made, value.grid)


def _geometry(node: Node) -> Geometry:
    strides, pads = _two(node.kwargs["stride"], 1), _two(node.kwargs["padding"], 0)
    return Geometry(strides, pads=((pads[0], pads[0]), (pads[1], pads[1])))


def _two(sizes: Sequence[int], missing: int) -> tuple[int, int]:
    """Height and width, where rows have a width only."""
    return (missing, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _in_rank(ctx: LiteContext, node: Node, index: int, grid: Grid | None) -> int:
    """Drop the height of rows."""
    shape = ctx.file.shapes[index]
    return ctx.reshaped(index, (shape[0], *shape[2:]), grid) if len(node.sizes) == 3 else index


EMITTERS = {
    "global_avg_pool": emit_global_avg_pool,
    "avg_pool": emit_avg_pool,
    "uneven_avg_pool": emit_uneven_avg_pool,
    "max_pool": emit_max_pool,
    "amax": emit_extreme,
    "amin": emit_extreme,
}

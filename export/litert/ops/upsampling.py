"""Upsampling by whole factors."""

from __future__ import annotations

import numpy as np

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.grid import made_grid
from qkd_deploy.export.litert.kernels import Geometry, Weights, convolved
from qkd_deploy.export.litert.ops.borders import own_border
from qkd_deploy.export.litert.ops.movement import joined, sliced
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.pooling import bilinear_scale, first_places, window_weights

_LARGEST = 127


def emit_resize(ctx: LiteContext, node: Node) -> Value:
    """Repeat columns, then rows: the channels once more behind themselves are the next column."""
    value, image, factors = ctx.values[node.inputs[0]], ctx.image(node.inputs[0]), node.kwargs["factors"]
    rows, columns = (1, *factors) if len(factors) == 1 else factors
    batch, height, width, channels = ctx.file.shapes[image]
    wide = joined(ctx, f"{node.name}.columns", [image] * columns, 3, value.grid)
    flat = ctx.reshaped(wide, (batch, height, 1, columns * width * channels), value.grid)
    tall = joined(ctx, f"{node.name}.rows", [flat] * rows, 2, value.grid)
    shape = (batch, rows * height, columns * width, channels)
    made = ctx.reshaped(tall, shape if len(node.sizes) == 4 else (batch, *shape[2:]), value.grid)
    return Value(made, value.grid, last=True)


def emit_bilinear(ctx: LiteContext, node: Node) -> Value:
    """Places between the pixels of an image with a border of its own: a convolution of windows of 2 x 2."""
    source, params = ctx.known_grid(node.inputs[0], node), ctx.params(node)
    factors, codes = node.kwargs["factors"], window_weights(node.kwargs["factors"])
    if codes.max() > _LARGEST:
        raise unsupported(node, "its factors are too large for weights of a byte")
    image = ctx.image(node.inputs[0])
    batch, height, width, channels = ctx.file.shapes[image]
    for axis in (1, 2):
        image = own_border(ctx, f"{node.name}.border_{axis}", image, source, axis, (1, 1), "replicate")
    multiplier = np.float32(source.scale) * np.float32(bilinear_scale(factors)) / np.float32(params.scale.item())
    count = channels * len(codes)
    weights = Weights(
        np.tile(codes[:, None], (channels, 1, 1, 1)).astype(np.int8),
        np.zeros(count, np.int32),
        np.full(count, multiplier, np.float32),
        copies=len(codes),
    )
    made, grid = convolved(ctx, node.name, image, source, made_grid(params), weights, Geometry())
    apart = ctx.reshaped(made, (height + 1, width + 1, channels, *factors), grid)
    ordered = ctx.transposed(apart, (0, 3, 1, 4, 2), grid)
    rows, columns = factors
    whole = ctx.reshaped(ordered, (batch, rows * (height + 1), columns * (width + 1), channels), grid)
    for axis, first, size in zip((1, 2), first_places(factors), (rows * height, columns * width), strict=True):
        whole = sliced(ctx, whole, grid, axis, range(first, first + size))
    return Value(whole, grid, last=True)


EMITTERS = {"resize": emit_resize, "bilinear": emit_bilinear}

"""Convolutions as XNNPACK computes them, also where they stand for something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value
from qkd_deploy.export.litert.grid import Grid, Scales, fitted, is_whole, made_grid
from qkd_deploy.graph.quantized import QuantParams

Pads = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Geometry:
    """Strides, dilations and paddings along height and width."""

    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: Pads = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Weights:
    """Integer weights ``[out, in, height, width]``, biases in steps of the sums, and a multiplier for each channel.

    ``copies``: output channels of each input channel where there is no other sum over channels; 0 elsewhere.
    """

    codes: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multipliers: Scales
    copies: int = 0


def activation(grid: Grid) -> int:
    """The activation function of a kernel that makes codes on a grid."""
    return int(getattr(schema.ActivationFunctionType, grid.cut))


def convolved(
    ctx: LiteContext, name: str, image: int, x: Grid, y: Grid, weights: Weights, geometry: Geometry
) -> tuple[int, Grid]:
    """Append a convolution in integers.

    Args:
        ctx: the file.
        name: of what it makes.
        image: its operand, ``[N, H, W, C]``.
        x: the grid of its operand.
        y: the grid of its result, of which the label may be moved.
        weights: of the convolution.
        geometry: of the convolution.

    Returns:
        The tensor, and its grid.
    """
    found = fitted(weights.multipliers, x, y)
    if found is None:
        image, x = in_powers_of_two(ctx, image, x)
        found = fitted(weights.multipliers, x, y)
    assert found is not None  # nothing is rounded between powers of two, or in front of a scale that is true
    y, scales = found
    order, axis = ((1, 2, 3, 0), 3) if weights.copies else ((0, 2, 3, 1), 0)
    weight = ctx.file.constant(f"{name}.weight", weights.codes.transpose(order), scale=scales, axis=axis)
    offset = ctx.file.constant(f"{name}.bias", weights.bias, scale=np.float32(x.label) * scales)
    image, same = _padded(ctx, image, weights.codes.shape[2:], geometry, x)
    options = schema.DepthwiseConv2DOptionsT() if weights.copies else schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = geometry.strides
    options.dilationHFactor, options.dilationWFactor = geometry.dilations
    options.fusedActivationFunction = activation(y)
    if weights.copies:
        options.depthMultiplier = weights.copies
    made = ctx.codes(name, _sizes(ctx.file.shapes[image], weights.codes.shape, geometry, same), y)
    operator = "DEPTHWISE_CONV_2D" if weights.copies else "CONV_2D"
    ctx.file.operator(operator, [image, weight, offset], [made], options)
    return made, y


def _reach(kernel: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, geometry.dilations, strict=True))


def _sizes(image: Sequence[int], weight: Sequence[int], geometry: Geometry, same: bool) -> tuple[int, ...]:
    spatial = zip(image[1:3], _reach(weight[2:], geometry), geometry.strides, strict=True)
    sizes = [-(-size // stride) if same else (size - reach) // stride + 1 for size, reach, stride in spatial]
    return image[0], *sizes, weight[0]


def _padded(ctx: LiteContext, image: int, kernel: Sequence[int], geometry: Geometry, grid: Grid) -> tuple[int, bool]:
    """Pad an image where the kernel's own padding is another; says if it is the kernel's own."""
    if not any(map(any, geometry.pads)):
        return image, False
    own = []
    for size, reach, stride in zip(
        ctx.file.shapes[image][1:3], _reach(kernel, geometry), geometry.strides, strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        own.append((total // 2, total - total // 2))
    if tuple(own) == geometry.pads:
        return image, True
    return padded(ctx, image, ((0, 0), *geometry.pads, (0, 0)), grid), False


def padded(ctx: LiteContext, index: int, amounts: Sequence[Sequence[int]], grid: Grid | None) -> int:
    """Zeros around a tensor, in its own layout."""
    sizes = tuple(size + sum(pair) for size, pair in zip(ctx.file.shapes[index], amounts, strict=True))
    made = ctx.like(index, sizes, grid, "padded")
    pads = ctx.file.constant("pads", np.array(amounts, np.int32))
    ctx.file.operator("PAD", [index, pads], [made], schema.PadOptionsT())
    return made


# -- one element at a time ---------------------------------------------------------------------------------------------


def pointwise(
    ctx: LiteContext, name: str, index: int, x: Grid, y: Grid, multiplier: float, weight: int = 1, bias: int = 0
) -> tuple[int, Grid]:
    """``rint((weight * code + bias) * multiplier)`` of every code, by a depthwise convolution of single pixels."""
    shape = ctx.file.shapes[index]
    rows = (1, 1, int(np.prod(shape[:-1], dtype=np.int64)), shape[-1] if shape else 1)
    channels = rows[-1]
    weights = Weights(
        np.full((channels, 1, 1, 1), weight, np.int8),
        np.full(channels, bias, np.int32),
        np.full(channels, multiplier, np.float32),
        copies=1,
    )
    image = index if len(shape) == 4 else ctx.reshaped(index, rows, x)
    made, y = convolved(ctx, name, image, x, y, weights, Geometry())
    return ctx.reshaped(made, shape, y), y


def relabelled(ctx: LiteContext, index: int, x: Grid, y: Grid) -> tuple[int, Grid]:
    """The same codes with another label, another byte for zero, or cut to their range."""
    if (x.label, x.zero) == (y.label, y.zero) and y.cut in ("NONE", x.cut):
        return index, x
    return pointwise(ctx, f"{ctx.file.tensors[index].name}.relabelled", index, x, y, 1.0)


def in_powers_of_two(ctx: LiteContext, index: int, grid: Grid) -> tuple[int, Grid]:
    """The same codes labelled with a power of two, by which nothing is rounded."""
    return relabelled(ctx, index, grid, replace(grid, label=float(np.exp2(np.rint(np.log2(grid.label)))), cut="NONE"))


def cut(ctx: LiteContext, index: int, made: Grid, params: QuantParams, *, last: bool) -> Value:
    """Codes of a kernel without an activation function, cut to their range where a byte does not do it."""
    if is_whole(made):
        return Value(index, made, last)
    index, grid = relabelled(ctx, index, made, made_grid(params))
    return Value(index, replace(grid, params=params), last)

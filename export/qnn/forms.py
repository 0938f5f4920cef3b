"""Kinds of nodes that are written otherwise for accelerators, where every operator stands between codes and codes.

What ``emit`` writes in integers for ONNX Runtime's CPU kernels, or in several steps, is one operator here, which the
accelerator rounds in its own way. Linear layers are convolutions, whose weights may have a scale by channel. Where
a layer's result stays in float, its codes are of 16 bits, in steps fine enough for the whole range that it can reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext, NamedParams
from qkd_deploy.export.emitter import Emitter, plain
from qkd_deploy.export.ops import EMITTERS
from qkd_deploy.export.ops.layers import conv_attributes, record_layer, weight_and_bias, weight_codes
from qkd_deploy.export.ops.movement import channels_of
from qkd_deploy.export.ops.pooling import smooth_resize
from qkd_deploy.export.qnn.context import PairedContext, Steps
from qkd_deploy.export.tokens import POINTWISE
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key

_MIDDLE = 2**15
"""Zero point of codes of 16 bits."""


def emit_conv(ctx: PairedContext, node: Node) -> ir.Value:
    """Append a convolution, between codes also where its result stays in float."""
    module = ctx.frozen.network.get_submodule(str(node.target))
    return _convolved(ctx, node, ctx.values[node.inputs[0]], weight_codes(ctx, node), conv_attributes(module))


def emit_linear(ctx: PairedContext, node: Node) -> ir.Value:
    """Append a linear layer as a convolution of one pixel, over an image of its rows."""
    name, b, operand = node.name, ctx.builder, node.inputs[0]
    steps, codes = ctx.steps_of(operand), weight_codes(ctx, node)
    wide = b.integers(f"{name}.rows", [1, 1, -1, codes.shape[1]])
    rows = b.add("Reshape", [ctx.values[operand], wide], f"{name}.row", node=f"{name}.row")
    rows = ctx.pair(f"{name}.row", rows, steps)
    image = b.add("Transpose", [rows], f"{name}.image", node=f"{name}.image", attributes={"perm": [0, 3, 1, 2]})
    image = ctx.pair(f"{name}.image", image, steps)
    value = _convolved(ctx, node, image, codes.reshape(*codes.shape, 1, 1), POINTWISE)
    made = ctx.steps_of(name)
    value = b.add("Transpose", [value], f"{name}.last", node=f"{name}.last", attributes={"perm": [0, 2, 3, 1]})
    value = ctx.pair(f"{name}.last", value, made)
    shape = b.integers(f"{name}.shape", node.open_shape)
    value = b.add("Reshape", [value, shape], f"{name}.columns", node=f"{name}.columns")
    return ctx.pair(f"{name}.columns", value, made)


def emit_global_avg_pool(ctx: PairedContext, node: Node) -> ir.Value:
    """Average images, of which rows of values are those of one line: QNN pools images alone."""
    if node.quantizer is None:
        return ctx.apply(node, "GlobalAveragePool")
    name, b, operand = node.name, ctx.builder, node.inputs[0]
    channels, *sizes = ctx.shape(operand)[1:]
    image = ctx.values[operand]
    if len(sizes) == 1:
        shape = b.integers(f"{name}.image_shape", [-1, channels, 1, sizes[0]])
        image = b.add("Reshape", [image, shape], f"{name}.image", node=f"{name}.image")
        image = ctx.pair(f"{name}.image", image, ctx.steps_of(operand))
    value = b.add("GlobalAveragePool", [image], f"{name}.float", node=name)
    value = ctx.on_own_grid(node, value)
    if len(sizes) != 1:
        return value
    back = b.integers(f"{name}.shape", node.open_shape)
    rows = b.add("Reshape", [value, back], f"{name}.rows", node=f"{name}.rows")
    return ctx.pair(f"{name}.rows", rows, ctx.steps_of(name))


def emit_concat(ctx: PairedContext, node: Node) -> ir.Value:
    """Concatenate operands, those on other grids brought to that of the result by a product first.

    Without it, the HTP makes the codes of a layer on the grid of the result at once, and nothing cuts them at the ends
    of their own.
    """
    name, b, own, operands = node.name, ctx.builder, ctx.params(node), []
    for number, operand in enumerate(node.inputs):
        value, known = ctx.values[operand], ctx.grids.get(operand)
        if known is not None and float(known.params.scale) != float(own.scale):
            product = b.add(
                "Mul", [value, _number(ctx, f"{name}.{number}", 1.0)], f"{name}.operand_{number}", node=name
            )
            value = ctx.pair(f"{name}.operand_{number}", product, ctx.scale_and_zero_point(name, own))
        operands.append(value)
    return b.add("Concat", operands, f"{name}.float", node=name, attributes={"axis": node.kwargs["dim"]})


def _number(ctx: PairedContext, name: str, value: float) -> ir.Value:
    """A positive number as the code 1."""
    b = ctx.builder
    scale = b.scalar(f"{name}.factor", value, np.float32)
    operands = [b.scalar(f"{name}.one", 1, np.uint8), scale, b.scalar(f"{name}.factor_zero_point", 0, np.uint8)]
    return b.add("DequantizeLinear", operands, f"{name}.number", node=f"{name}.one")


def emit_requantize(ctx: PairedContext, node: Node) -> ir.Value:
    """Put codes on another grid by a product with one, cut before: sums with zero were seen to give other codes.

    The HTP lets a sum behind read the product, which nothing cuts at the ends of the other grid then.
    """
    operand, own = node.inputs[0], ctx.params(node)
    value = ctx.values[operand]
    if operand in ctx.grids:
        grid = ctx.grids[operand].params
        ratio = float(own.scale) / float(grid.scale)
        lo, hi = max(math.floor(own.lo * ratio), grid.lo), min(math.ceil(own.hi * ratio), grid.hi)
        value = ctx.cut(f"{node.name}.cut", value, ctx.scale_and_zero_point(*ctx.grids[operand]), grid, (lo, hi))
    return ctx.builder.add("Mul", [value, _number(ctx, node.name, 1.0)], f"{node.name}.float", node=node.name)


def emit_rescale(ctx: PairedContext, node: Node) -> ir.Value:
    """Multiply by a number."""
    name, operands = node.name, [ctx.values[node.inputs[0]], _number(ctx, node.name, node.kwargs["factor"])]
    value = ctx.builder.add("Mul", operands, f"{name}.float", node=name)
    ctx.grids[name] = NamedParams(name, ctx.frozen.grid(module_key(name)))
    return ctx.pair(name, value, ctx.steps_of(name))


def emit_border(ctx: PairedContext, node: Node) -> ir.Value:
    """Pad each channel with its own value, the channels one by one where these differ."""
    name, b, whole, steps = node.name, ctx.builder, ctx.values[node.inputs[0]], ctx.steps_of(node.inputs[0])
    fills = np.array(node.kwargs["values"], np.float32)
    parts = [whole]
    if len(set(fills.tolist())) > 1:
        parts = channels_of(ctx, node, whole, len(fills))
        parts = [ctx.pair(f"{name}.of_channel_{number}", part, steps) for number, part in enumerate(parts)]
    pads = b.constant(f"{name}.pads", np.array(node.kwargs["amounts"], np.int64).T.reshape(-1))
    padded = []
    for number, (part, fill) in enumerate(zip(parts, fills, strict=False)):
        operands = [part, pads, b.constant(f"{name}.value_{number}", fill)]
        value = b.add("Pad", operands, f"{name}.padded_{number}", node=name)
        padded.append(ctx.pair(f"{name}.padded_{number}", value, steps))
    return (
        padded[0] if len(padded) == 1 else b.add("Concat", padded, f"{name}.whole", node=name, attributes={"axis": 1})
    )


def _convolved(
    ctx: PairedContext, node: Node, image: ir.Value, codes: np.ndarray, attributes: dict[str, Any]
) -> ir.Value:
    """A convolution of codes, and the codes that it makes; returns the dequantized value."""
    name, integer, finer = node.name, node.quantizer is not None, 0
    if not integer:
        finer = _free_bits(ctx, node)
        image = ctx.pair(f"{name}.wide", image, _widened(ctx, node, finer))
        ctx.wide[name] = _wide_steps(ctx, node, codes)
    operands = [image, *weight_and_bias(ctx, node, codes, finer=finer)]
    value = ctx.builder.add("Conv", operands, f"{name}.float", node=name, attributes=attributes)
    record_layer(ctx, node, "Conv", integer=integer)
    return ctx.on_own_grid(node, value) if integer else ctx.pair(name, value, ctx.wide[name])


def _free_bits(ctx: PairedContext, node: Node) -> int:
    """By how many bits codes of 16 bits can be finer than those of the operand, and the bias with them."""
    largest = int(ctx.frozen.layer(node).bias.abs().max())
    return min(8, 31 - largest.bit_length())


def _widened(ctx: PairedContext, node: Node, finer: int) -> Steps:
    """Scale and zero point of the operand's codes in 16 bits, where they are the upper ones: QNN loses the lower.

    Accelerators make results of the width of their operands.
    """
    assert node.source is not None
    grid, b = ctx.frozen.grid(node.source), ctx.builder
    scale = b.scalar(f"{node.name}.wide_scale", float(grid.scale) / 2**finer, np.float32)
    return scale, b.scalar(f"{node.name}.wide_zero_point", grid.zero_point << finer, np.uint16)


def _wide_steps(ctx: PairedContext, node: Node, codes: np.ndarray) -> Steps:
    """Scale and zero point by which the largest sum that a layer can reach still fits into 16 bits."""
    assert node.source is not None
    grid, layer = ctx.frozen.grid(node.source), ctx.frozen.layer(node)
    products = codes.reshape(len(codes), -1).astype(np.int64)
    bias = layer.bias.cpu().numpy().astype(np.int64)
    most = bias + np.maximum(products * grid.lo, products * grid.hi).sum(1)
    least = bias + np.minimum(products * grid.lo, products * grid.hi).sum(1)
    reach = np.maximum(most, -least) * (float(grid.scale) * layer.scale.cpu().numpy().astype(np.float64))
    scale = ctx.builder.scalar(f"{node.name}.scale", float(reach.max()) / (_MIDDLE - 1), np.float32)
    return scale, ctx.builder.scalar(f"{node.name}.zero_point", _MIDDLE, np.uint16)


def _written(function: Callable[[PairedContext, Node], ir.Value], *, quantizes: bool = False) -> Emitter:
    """A row for a function that takes the context of this package."""

    def emit(ctx: EmitContext, node: Node) -> ir.Value:
        assert isinstance(ctx, PairedContext)
        return function(ctx, node)

    return Emitter(emit, quantizes)


PAIRED = {
    **EMITTERS,
    "conv": _written(emit_conv, quantizes=True),
    "linear": _written(emit_linear, quantizes=True),
    "mul": plain("Mul"),
    "matmul": plain("MatMul"),
    "global_avg_pool": _written(emit_global_avg_pool, quantizes=True),
    "concat": _written(emit_concat),
    "requantize": _written(emit_requantize),
    "clip": _written(emit_requantize),
    "rescale": _written(emit_rescale),
    "border": _written(emit_border),
    "tanh": plain("Tanh"),
    "hard_sigmoid": plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "bilinear": Emitter(smooth_resize),
}
"""By kind of node."""

"""Kinds of nodes that are written otherwise for accelerators, where every operator stands between codes and codes.

What ``emit`` writes in integers for ONNX Runtime's CPU kernels, or in several steps, is one operator here, which the
accelerator rounds in its own way. Linear layers are convolutions, whose weights may have a scale by channel. Where
a layer's result stays in float, its codes are of 16 bits, in steps fine enough for the whole range that it can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter, plain
from qkd_deploy.export.graph_builder import PACKED_OPSETS
from qkd_deploy.export.ops import EMITTERS
from qkd_deploy.export.ops.layers import conv_attributes, emit_bias, emit_weight, record_layer, weight_codes
from qkd_deploy.export.ops.pooling import smooth_resize
from qkd_deploy.export.packing import codes_before_upscaling
from qkd_deploy.export.qnn import grids
from qkd_deploy.export.qnn.context import PairedContext, Steps
from qkd_deploy.export.tokens import POINTWISE
from qkd_deploy.graph.ir import Node

_PACKED_BITS = 4
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


def _convolved(
    ctx: PairedContext, node: Node, image: ir.Value, codes: np.ndarray, attributes: dict[str, Any]
) -> ir.Value:
    """A convolution of codes, and the codes that it makes; returns the dequantized value."""
    name, integer, finer = node.name, node.quantizer is not None, 0
    if not integer:
        finer = _free_bits(ctx, node)
        image = ctx.pair(f"{name}.wide", image, _widened(ctx, node, finer))
        ctx.wide[name] = _wide_steps(ctx, node, codes)
    packed = ctx.weights == "packed" and ctx.frozen.layer(node).weight_bits <= _PACKED_BITS
    weight = _packed(ctx, node, codes) if packed else emit_weight(ctx, node, codes)
    operands = [image, weight, emit_bias(ctx, node, finer=finer)]
    value = ctx.builder.add("Conv", operands, f"{name}.float", node=name, attributes=attributes)
    record_layer(ctx, node, "Conv", integer=integer)
    return ctx.on_own_grid(node, value) if integer else ctx.pair(name, value, ctx.wide[name])


def _packed(ctx: PairedContext, node: Node, codes: np.ndarray) -> ir.Value:
    """Weights as INT4, which the HTP reads as it is: on the steps of the codes before they are upscaled."""
    name, b, layer = node.name, ctx.builder, ctx.frozen.layer(node)
    base = codes_before_upscaling(name, codes, layer, _PACKED_BITS).astype(ml_dtypes.int4)
    scale = layer.scale.cpu().numpy() * np.float32(layer.upscale)
    b.opset = max(b.opset, PACKED_OPSETS[_PACKED_BITS])
    operands = [
        b.constant(f"{name}.weight_int4", base, ir.DataType.INT4),
        b.constant(f"{name}.weight_step", scale),
        b.constant(f"{name}.weight_int4_zero_point", np.zeros(len(scale), ml_dtypes.int4), ir.DataType.INT4),
    ]
    return b.add("DequantizeLinear", operands, f"{name}.weight_int4_dequantized", node=name, attributes={"axis": 0})


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
    "concat": _written(grids.emit_concat),
    "requantize": _written(grids.emit_requantize),
    "clip": _written(grids.emit_requantize),
    "rescale": _written(grids.emit_rescale),
    "border": _written(grids.emit_border),
    "tanh": plain("Tanh"),
    "hard_sigmoid": plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "bilinear": Emitter(smooth_resize),
}
"""By kind of node."""

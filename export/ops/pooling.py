"""Windows in ONNX: pools, and upsampling, which reads between the pixels of a window."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.ops.float_ops import block_fusion
from qkd_deploy.export.ops.layers import dequantize_weight
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.pooling import bilinear_scale, copies_of_windows, first_places, window_weights
from qkd_deploy.graph.quantized import POOL_CODE, pool_weight_scale


def emit_max_pool(ctx: EmitContext, node: Node) -> ir.Value:
    """MaxPool, which acts on codes."""
    dilations, ceil_mode = list(node.kwargs["dilation"]), int(node.kwargs["ceil_mode"])
    return _emit_pool(ctx, node, "MaxPool", dilations=dilations, ceil_mode=ceil_mode)


def emit_avg_pool(ctx: EmitContext, node: Node) -> ir.Value:
    """Average full windows by a depthwise convolution with equal weights (decision 4); in float by AveragePool.

    The convolution adds integers, so that it is exact, and takes a sixth of the time of QLinearAveragePool or less.
    """
    if node.quantizer is None:
        return _emit_pool(ctx, node, "AveragePool", count_include_pad=1)
    kernel, b, name = node.kwargs["kernel_size"], ctx.builder, node.name
    channels = node.sizes[1]
    codes = b.constant(f"{name}.weight", np.full((channels, 1, *kernel), POOL_CODE, np.int8))
    scale = np.full(channels, pool_weight_scale(kernel), np.float32)
    weight = dequantize_weight(b, name, codes, scale)
    attributes = {**_windows(node), "group": channels}
    return b.add("Conv", [ctx.values[node.inputs[0]], weight], f"{name}.float", node=name, attributes=attributes)


def emit_uneven_avg_pool(ctx: EmitContext, node: Node) -> ir.Value:
    """Average windows that count only elements of the image, which no convolution does: QLinearAveragePool."""
    return _emit_pool(ctx, node, "AveragePool", ceil_mode=int(node.kwargs["ceil_mode"]), count_include_pad=0)


def _emit_pool(ctx: EmitContext, node: Node, operator: str, **attributes: Any) -> ir.Value:
    """A pool as one operator.

    A Pad in front, on floats, is kept apart: the runtime would make its zeros the pool's own padding, which never
    counts (decision 14).
    """
    source, value = ctx.frozen.graph.node(node.inputs[0]), ctx.values[node.inputs[0]]
    if source.kind == "pad" and source.name not in ctx.grids:
        value = block_fusion(ctx.builder, value, f"{node.name}.input")
    attributes = {**_windows(node), **attributes}
    return ctx.builder.add(operator, [value], f"{node.name}.float", node=node.name, attributes=attributes)


def emit_resize(ctx: EmitContext, node: Node) -> ir.Value:
    """Nearest upsampling by whole factors, on codes."""
    scales = ctx.builder.constant(f"{node.name}.scales", np.array([1, 1, *node.kwargs["factors"]], np.float32))
    return ctx.move(
        node,
        "Resize",
        [None, scales],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def emit_bilinear(ctx: EmitContext, node: Node) -> ir.Value:
    """Bilinear upsampling as a convolution of windows of 2 x 2 of all channels alike (decision 41); in float by Resize.

    Of the image with a border of its own pixels, every window gives the places between its pixels; these are put in
    order, and the border is cut off.
    """
    if node.quantizer is None:
        return smooth_resize(ctx, node)
    (channels, height, width), (rows, columns) = ctx.shape(node.inputs[0])[1:], node.kwargs["factors"]
    b, name, do = ctx.builder, node.name, partial(ctx.builder.step, node.name)
    pads = b.integers(f"{name}.pads", [0, 0, 1, 1] * 2)
    bordered = do("Pad", [ctx.known_codes(node.inputs[0]), pads], "bordered", mode="edge")
    single = do("Reshape", [bordered, b.integers(f"{name}.images", [-1, 1, height + 2, width + 2])], "single")
    made = ctx.quantize(node, ctx.params(node), _between_pixels(ctx, node, single))
    apart = b.integers(f"{name}.apart", [-1, rows, columns, height + 1, width + 1])
    ordered = do("Transpose", [do("Reshape", [made, apart], "places")], "ordered", perm=[0, 3, 1, 4, 2])
    whole = b.integers(f"{name}.whole", [-1, channels, rows * (height + 1), columns * (width + 1)])
    top, left = first_places(node.kwargs["factors"])
    limits = {"starts": (top, left), "ends": (top + rows * height, left + columns * width), "axes": (2, 3)}
    bounds = [b.integers(f"{name}.{key}", value) for key, value in limits.items()]
    return ctx.record(node, ctx.params(node), do("Slice", [do("Reshape", [ordered, whole], "image"), *bounds], "cut"))


def _between_pixels(ctx: EmitContext, node: Node, single: ir.Value) -> ir.Value:
    """Convolve codes [images, 1, ...]; where weights are beyond 64, as many copies of the image share them."""
    b, name, factors = ctx.builder, node.name, node.kwargs["factors"]
    weights, copies = window_weights(factors), copies_of_windows(factors)
    parts = np.stack([(weights + part) // copies for part in range(copies)], axis=1).astype(np.int8)
    if copies > 1:
        single = b.step(name, "Concat", [single] * copies, "copies", axis=1)
    source = ctx.scale_and_zero_point(*ctx.grids[node.inputs[0]])
    scale = np.full(len(parts), bilinear_scale(factors), np.float32)
    weight = dequantize_weight(b, name, b.constant(f"{name}.weight", parts), scale)
    return b.step(name, "Conv", [b.step(name, "DequantizeLinear", [single, *source], "pixels"), weight], "float")


def smooth_resize(ctx: EmitContext, node: Node) -> ir.Value:
    """Bilinear upsampling as one operator, in float."""
    scales = ctx.builder.constant(f"{node.name}.scales", np.array([1, 1, *node.kwargs["factors"]], np.float32))
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    operands = [ctx.values[node.inputs[0]], None, scales]
    return ctx.builder.add("Resize", operands, f"{node.name}.float", node=node.name, attributes=attributes)


def _windows(node: Node) -> dict[str, list[int]]:
    """The attributes that all pooling operators share."""
    options = node.kwargs
    return {
        "kernel_shape": list(options["kernel_size"]),
        "strides": list(options["stride"]),
        "pads": list(options["padding"]) * 2,
    }


EMITTERS = {
    "max_pool": Emitter(emit_max_pool),
    "avg_pool": Emitter(emit_avg_pool),
    "uneven_avg_pool": Emitter(emit_uneven_avg_pool),
    "resize": Emitter(emit_resize),
    "bilinear": Emitter(emit_bilinear, quantizes=True),
}

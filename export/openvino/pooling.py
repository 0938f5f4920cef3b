"""Means of windows and of whole images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.float_ops import on_grid
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import POOL_CODE, pool_weight_scale


def draw_global_avg_pool(draw: Drawing, node: Node) -> ir.Value:
    """Add up the codes of every channel, exactly, and multiply the sum once."""
    operand = node.inputs[0]
    if node.quantizer is None or operand not in draw.grids:
        value = draw.do(node, "GlobalAveragePool", [_floats(draw, node)])
        return on_grid(draw, node, value)
    sizes = draw.frozen.graph.node(operand).sizes
    count = np.float32(np.prod(sizes[2:]))
    factor = np.float32(draw.scales(node)[0]) / (np.float32(float(draw.grid(node).scale)) * count)
    axes = draw.sketch.shape(range(2, len(sizes)))
    total = draw.do(node, "ReduceSum", [draw.values[operand], axes], keepdims=1)
    return draw.quantized(node, draw.times(node, total, float(factor)), rounded=True)


def draw_avg_pool(draw: Drawing, node: Node) -> ir.Value:
    """Average full windows by a depthwise convolution with equal weights, as for every runtime (decision 4)."""
    operand, kernel, options = node.inputs[0], node.kwargs["kernel_size"], node.kwargs
    windows = {"kernel_shape": list(kernel), "strides": list(options["stride"]), "pads": list(options["padding"]) * 2}
    if node.quantizer is None or operand not in draw.grids:
        value = draw.do(node, "AveragePool", [_floats(draw, node)], **windows, count_include_pad=1)
        return on_grid(draw, node, value)
    channels = node.sizes[1]
    scale = np.float32(draw.scales(node)[0]) * np.float32(pool_weight_scale(kernel))
    factor = scale / np.float32(float(draw.grid(node).scale))
    codes = draw.sketch.array(np.full((channels, 1, *kernel), POOL_CODE, np.int8))
    weight = draw.times(node, draw.do(node, "Cast", [codes], to=ir.DataType.FLOAT), float(factor))
    return draw.quantized(node, draw.do(node, "Conv", [draw.values[operand], weight], **windows, group=channels))


def draw_uneven_avg_pool(draw: Drawing, node: Node) -> ir.Value:
    """Average windows that count only elements of the image; in float32, between codes."""
    options = node.kwargs
    windows = {
        "kernel_shape": list(options["kernel_size"]),
        "strides": list(options["stride"]),
        "pads": list(options["padding"]) * 2,
        "ceil_mode": int(options["ceil_mode"]),
        "count_include_pad": 0,
    }
    return on_grid(draw, node, draw.do(node, "AveragePool", [_floats(draw, node)], **windows))


def _floats(draw: Drawing, node: Node) -> ir.Value:
    """The operand in real units; an operation that changes no code keeps the plugin from averaging bytes to bytes."""
    operand = node.inputs[0]
    if operand not in draw.grids:
        return draw.values[operand]
    return draw.times(node, draw.do(node, "Round", [draw.values[operand]]), draw.scales(node)[0])


DRAWERS = {
    "global_avg_pool": draw_global_avg_pool,
    "avg_pool": draw_avg_pool,
    "uneven_avg_pool": draw_uneven_avg_pool,
}

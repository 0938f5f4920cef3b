"""Upsampling by whole factors with weights between pixels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.exact import Floats
from qkd_deploy.export.openvino.float_ops import on_grid
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.pooling import bilinear_scale, first_places, window_weights

_LARGEST = 127
_TWICE = 2.0


def draw_bilinear(draw: Drawing, node: Node) -> ir.Value:
    """Places between the pixels of an image with a border of its own: a convolution of windows of 2 x 2 (decision 41).

    In float by Resize.
    """
    operand, (rows, columns) = node.inputs[0], node.kwargs["factors"]
    if node.quantizer is None or operand not in draw.grids:
        return on_grid(draw, node, _resized(draw, node))
    shape, do = draw.sketch.shape, Floats(draw, node)
    channels, height, width = draw.frozen.graph.node(operand).sizes[1:]
    bordered = draw.do(node, "Pad", [draw.values[operand], shape([0, 0, 1, 1] * 2)], mode="edge")
    single = do.of("Reshape", bordered, shape([-1, 1, height + 2, width + 2]))
    sums = do.whole(draw.do(node, "Conv", [single, _weights(draw, node)], kernel_shape=[2, 2]))
    scale = np.float32(draw.scales(node)[0]) * np.float32(bilinear_scale(node.kwargs["factors"]))
    ratio = scale / np.float32(float(draw.grid(node).scale))
    apart = do.of(
        "Reshape", do.with_number("Mul", sums, float(ratio) / _TWICE), shape([-1, rows, columns, height + 1, width + 1])
    )
    ordered = draw.do(node, "Transpose", [apart], perm=[0, 3, 1, 4, 2])
    whole = do.of("Reshape", ordered, shape([-1, channels, rows * (height + 1), columns * (width + 1)]))
    top, left = first_places(node.kwargs["factors"])
    ends = shape([top + rows * height, left + columns * width])
    return draw.quantized(node, do.of("Slice", whole, shape([top, left]), ends, shape([2, 3])), rounded=True)


def _weights(draw: Drawing, node: Node) -> ir.Value:
    """Twice the whole weights of the windows: where they are bytes, the plugin makes an integer kernel of them."""
    codes = window_weights(node.kwargs["factors"])[:, None]
    if codes.max() > _LARGEST:
        return draw.sketch.array((codes * _TWICE).astype(np.float32))
    weight = draw.do(node, "Cast", [draw.sketch.array(codes.astype(np.int8))], to=ir.DataType.FLOAT)
    return draw.times(node, weight, _TWICE)


def _resized(draw: Drawing, node: Node) -> ir.Value:
    scales = draw.sketch.array(np.array([1, 1, *node.kwargs["factors"]], np.float32))
    modes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    nothing = draw.sketch.array(np.zeros(0, np.float32))
    return draw.do(node, "Resize", [draw.real(node, node.inputs[0]), nothing, scales], **modes)


DRAWERS = {"bilinear": draw_bilinear}

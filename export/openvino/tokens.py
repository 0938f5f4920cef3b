"""Products of two tensors, softmax and LayerNorm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.float_ops import on_grid
from qkd_deploy.graph.exact.rows import eps_in_steps
from qkd_deploy.graph.ir import Node


def draw_matmul(draw: Drawing, node: Node) -> ir.Value:
    """Multiply two tensors as matrices: the products of codes, multiplied once."""
    left, right = node.inputs[0], node.inputs[-1]
    if node.quantizer is None or left not in draw.grids or right not in draw.grids:
        return on_grid(draw, node, draw.do(node, "MatMul", [draw.real(node, left), draw.real(node, right)]))
    scales = [np.float32(float(draw.grids[name].scale)) for name in (left, right)]
    factor = scales[0] * scales[1] / np.float32(float(draw.grid(node).scale))
    value = draw.do(node, "MatMul", [draw.values[left], draw.values[right]])
    return draw.quantized(node, draw.times(node, value, float(factor)), rounded=True)


def draw_weighted_mean(draw: Drawing, node: Node) -> ir.Value:
    """Sums of weighted codes over sums of weights: both are integers."""
    weights, values, _ = node.inputs
    sums = draw.do(node, "MatMul", [draw.values[weights], draw.values[values]])
    total = draw.do(node, "ReduceSum", [draw.values[weights], draw.sketch.shape([-1])], keepdims=1)
    ratio = np.float32(float(draw.grids[values].scale)) / np.float32(float(draw.grid(node).scale))
    mean = draw.do(node, "Div", [sums, total])
    return draw.quantized(node, draw.times(node, mean, float(ratio)), rounded=True)


def draw_exponential(draw: Drawing, node: Node) -> ir.Value:
    """Exponentials of codes less the largest of their row; their scale is one on which approximations agree."""
    value = draw.values[node.inputs[0]]
    largest = draw.do(node, "ReduceMax", [value, draw.sketch.shape([-1])], keepdims=1)
    below = draw.times(node, draw.do(node, "Sub", [value, largest]), draw.scales(node)[0])
    made = draw.do(node, "Exp", [below])
    return draw.quantized(node, draw.times(node, made, 1 / float(draw.grid(node).scale)), rounded=True)


def draw_layer_norm(draw: Drawing, node: Node) -> ir.Value:
    """Normalise the last dimension."""
    operand, (_, weight, bias) = node.inputs[0], node.args
    gain, offset = (None if ref is None else draw.values[ref.name] for ref in (weight, bias))
    if operand not in draw.grids:
        value, eps = draw.values[operand], float(node.kwargs["eps"])
    else:
        source = draw.grids[operand]
        value, eps = draw.values[operand], eps_in_steps(node.kwargs["eps"], float(source.scale))
    axes = draw.sketch.shape([-1])
    n = float(node.sizes[-1])
    total = draw.do(node, "ReduceSum", [value, axes], keepdims=1)
    squares = draw.do(node, "ReduceSum", [draw.do(node, "Mul", [value, value]), axes], keepdims=1)
    mean = draw.times(node, total, 1 / n)
    variance = draw.do(node, "Sub", [draw.times(node, squares, 1 / n), draw.do(node, "Mul", [mean, mean])])
    deviation = draw.do(node, "Sqrt", [draw.do(node, "Add", [variance, draw.sketch.number(eps)])])
    y = draw.do(node, "Div", [draw.do(node, "Sub", [value, mean]), deviation])
    if gain is not None:
        y = draw.do(node, "Mul", [y, gain])
    return on_grid(draw, node, y if offset is None else draw.do(node, "Add", [y, offset]))


def draw_softmax(draw: Drawing, node: Node) -> ir.Value:
    """A softmax in float32."""
    return on_grid(draw, node, draw.do(node, "Softmax", [draw.real(node, node.inputs[0])], axis=-1))


def draw_expectation(draw: Drawing, node: Node) -> ir.Value:
    """Multiply shares by numbers and add up along the dimension of the shares, in float."""
    weighted = draw.do(node, "Mul", [draw.real(node, name) for name in node.inputs])
    axes = draw.sketch.shape([node.kwargs.get("dim", 1)])
    return draw.do(node, "ReduceSum", [weighted, axes], keepdims=1)


DRAWERS = {
    "matmul": draw_matmul,
    "weighted_mean": draw_weighted_mean,
    "exponential": draw_exponential,
    "layer_norm": draw_layer_norm,
    "softmax": draw_softmax,
    "expectation": draw_expectation,
}

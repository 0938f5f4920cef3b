"""Products of two tensors, softmax and LayerNorm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from qkd_deploy.export.openvino.context import Drawing, without_form
from qkd_deploy.export.openvino.exact import Floats, divided
from qkd_deploy.export.openvino.float_ops import on_grid
from qkd_deploy.graph.exact.pairs import deviation
from qkd_deploy.graph.exact.rows import (
    ALL_ZERO,
    FLOAT32_ROW,
    eps_in_steps,
    halvings,
    row_center,
    sum_step,
    whole_steps,
)
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import real


def draw_matmul(draw: Drawing, node: Node) -> ir.Value:
    """Multiply two tensors as matrices: the products of codes, multiplied once."""
    left, right = node.inputs[0], node.inputs[-1]
    if node.quantizer is None or left not in draw.grids or right not in draw.grids:
        return on_grid(draw, node, draw.do(node, "MatMul", [draw.real(node, left), draw.real(node, right)]))
    scales = [np.float32(float(draw.grids[name].scale)) for name in (left, right)]
    factor = scales[0] * scales[1] / np.float32(float(draw.grid(node).scale))
    do = Floats(draw, node)
    sums = do.whole(do.of("MatMul", draw.values[left], draw.values[right]))
    return draw.quantized(node, draw.times(node, sums, float(factor)), rounded=True)


def draw_weighted_mean(draw: Drawing, node: Node) -> ir.Value:
    """Sums of weighted codes over sums of weights: both are integers."""
    weights, values, undropped = node.inputs
    do = Floats(draw, node)
    sums = do.whole(do.of("MatMul", draw.values[weights], draw.values[values]))
    total = draw.do(node, "ReduceSum", [do.whole(draw.values[undropped]), draw.sketch.shape([-1])], keepdims=1)
    ratio = np.float32(float(draw.grid(node).scale)) / np.float32(float(draw.grids[values].scale))
    return draw.quantized(node, divided(draw, node, do.quotient(sums, total), float(ratio)), rounded=True)


def draw_exponential(draw: Drawing, node: Node) -> ir.Value:
    """Exponentials of codes less the largest of their row; their scale is one on which approximations agree."""
    do, source = Floats(draw, node), draw.grids[node.inputs[0]]
    value, unit = draw.values[node.inputs[0]], source.scale
    if len(node.inputs) > 1:
        unit, times = sum_step(source.scale), min(int(halvings(source.scale)), ALL_ZERO)
        if times:
            value = do.of("Floor", do.with_number("Add", do.with_number("Mul", value, 2.0**-times), 0.5))
        offsets = sum((whole_steps(real(draw.constants[name]), unit) for name in node.inputs[1:]), torch.zeros(()))
        value = do.of("Add", value, draw.sketch.array(offsets.detach().cpu().numpy()))
    largest = draw.do(node, "ReduceMax", [value, draw.sketch.shape([-1])], keepdims=1)
    below = do.with_number("Mul", do.of("Sub", value, largest), float(unit))
    made = do.of("Exp", below)
    return draw.quantized(node, draw.times(node, made, 1 / float(draw.grid(node).scale)), rounded=True)


def draw_layer_norm(draw: Drawing, node: Node) -> ir.Value:
    """The operations of the integer model in their order, each rounded once.

    Raises:
        UserError: rows whose squares add up to more than float32 holds.
    """
    operand, (_, weight, bias), length = node.inputs[0], node.args, node.sizes[-1]
    gain, offset = (None if ref is None else draw.values[ref.name] for ref in (weight, bias))
    if operand not in draw.grids or node.quantizer is None:
        return _float_norm(draw, node, gain, offset)
    if length > FLOAT32_ROW:
        raise without_form(node, f": its rows are longer than {FLOAT32_ROW}")
    do = Floats(draw, node)
    y = _normalised(draw, node, do)
    if gain is not None:
        y = do.of("Mul", y, gain)
        y = y if offset is None else do.rounded(y)
    y = y if offset is None else do.of("Add", y, offset)
    return draw.quantized(node, divided(draw, node, y, float(draw.grid(node).scale)), rounded=True)


def _normalised(draw: Drawing, node: Node, do: Floats) -> ir.Value:
    """``(c - mean) / deviation`` of every row, from codes: the scale cancels, but for eps, which is divided by it."""
    source, axes, length = draw.grids[node.inputs[0]], draw.sketch.shape([-1]), node.sizes[-1]
    c = do.whole(draw.values[node.inputs[0]])
    shift = source.zero_point - row_center(source.zero_point + source.hi, length)
    if shift:
        c = do.with_number("Add", c, shift)
    total = draw.do(node, "ReduceSum", [c, axes], keepdims=1)
    squares = draw.do(node, "ReduceSum", [do.of("Mul", c, c), axes], keepdims=1)
    divisor = deviation(do, total, squares, length, eps_in_steps(node.kwargs["eps"], float(source.scale)))
    return do.quotient(do.of("Sub", c, do.quotient_by_number(total, length)), divisor)


def _float_norm(draw: Drawing, node: Node, gain: ir.Value | None, offset: ir.Value | None) -> ir.Value:
    """Normalise in float, where operand or result have no codes; ONNX requires a gain."""
    gain = gain or draw.sketch.array(np.ones(node.sizes[-1], np.float32))
    operands = [draw.real(node, node.inputs[0]), gain, *([] if offset is None else [offset])]
    made = draw.do(node, "LayerNormalization", operands, axis=-1, epsilon=node.kwargs["eps"])
    return on_grid(draw, node, made)


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

"""Convolutions and linear layers.

The plugin makes an integer kernel of a layer whose weights are int8 behind a Cast and a multiplication. That factor
stands for all scales, so that results come in steps of the output's codes, to which the bias is added. Where no bias
gives every sum its code (``fitting``), the factor is two, which is exact, and the scales follow behind the bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.fitting import Floats, fitted_bias
from qkd_deploy.graph.integer.layer import IntegerLayer
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import layer_of, paddings
from qkd_deploy.graph.quantized import QuantParams

_TWICE = np.float32(2)


def draw_layer(draw: Drawing, node: Node) -> ir.Value:
    """Append a layer: in integers where its operand is quantized, else in float."""
    layer = draw.frozen.layer(node)
    codes, bias = layer.codes.cpu().numpy(), layer.bias.cpu().numpy()
    conv = node.kind == "conv"
    if node.source is None or (conv and node.quantizer is None):
        return _in_float(draw, node, layer)
    source = draw.frozen.grid(node.source).scale.cpu().numpy() * layer.scale.cpu().numpy()
    operand = draw.values[node.inputs[0]]
    if node.quantizer is None:
        return _product(draw, node, operand, codes, source, bias * source.astype(np.float64))
    grid = draw.grid(node)
    multiplier = (source / grid.scale.cpu().numpy()).astype(np.float32)
    fitted = _fitted(layer, multiplier, grid)
    if fitted is not None:
        value = _product(draw, node, operand, codes, multiplier, fitted)
        return draw.quantized(node, value)
    value = _product(draw, node, operand, codes, np.full_like(multiplier, _TWICE), bias.astype(np.float32) * _TWICE)
    # an operation that changes no integer keeps the plugin from multiplying before it adds
    value = draw.do(node, "Relu" if grid.lo == 0 else "Round", [value])
    factors = draw.sketch.array(_by_channel(multiplier / _TWICE, node))
    return draw.quantized(node, draw.do(node, "Mul", [value, factors]), rounded=True)


def _fitted(layer: IntegerLayer, multiplier: Floats, grid: QuantParams) -> Floats | None:
    bias = layer.bias.cpu().numpy().astype(np.int64)
    return fitted_bias(multiplier, bias, (layer.upscale, layer.accumulator), (grid.lo, grid.hi))


def _in_float(draw: Drawing, node: Node, layer: IntegerLayer) -> ir.Value:
    """A layer whose operand or result has no codes, with real weights, in float."""
    bias = layer.bias.cpu().numpy().astype(np.float64)
    if node.source is not None:
        bias = bias * (draw.frozen.grid(node.source).scale.cpu().numpy() * layer.scale.cpu().numpy())
    weight = draw.sketch.array(layer.real_weight().cpu().numpy())
    value = _applied(draw, node, draw.real(node, node.inputs[0]), weight, bias)
    if node.quantizer is None:
        return value
    return draw.quantized(node, draw.times(node, value, 1 / float(draw.grid(node).scale)), rounded=True)


def _product(
    draw: Drawing,
    node: Node,
    operand: ir.Value,
    codes: npt.NDArray[np.int8],
    factor: Floats,
    bias: npt.NDArray[Any],
) -> ir.Value:
    """The sums of products times a factor of every channel, and the bias."""
    weight = draw.sketch.array(_turned(codes, node))
    weight = draw.do(node, "Cast", [weight], to=ir.DataType.FLOAT)
    shape = (-1, *[1] * (codes.ndim - 1)) if node.kind == "conv" else (1, -1)
    weight = draw.do(node, "Mul", [weight, draw.sketch.array(factor.reshape(shape))])
    return _applied(draw, node, operand, weight, bias)


def _applied(draw: Drawing, node: Node, operand: ir.Value, weight: ir.Value, bias: npt.NDArray[Any]) -> ir.Value:
    offset = draw.sketch.array(bias.astype(np.float32))
    if node.kind == "conv":
        attributes = _attributes(layer_of(draw.frozen.network, node))
        return draw.do(node, "Conv", [operand, weight, offset], **attributes)
    if weight.const_value is not None:
        weight = draw.sketch.array(np.ascontiguousarray(weight.const_value.numpy().T))
    return draw.do(node, "Add", [draw.do(node, "MatMul", [operand, weight]), offset])


def _turned(codes: npt.NDArray[np.int8], node: Node) -> npt.NDArray[np.int8]:
    """Weights as the operator takes them: those of linear layers by input and output."""
    return codes if node.kind == "conv" else np.ascontiguousarray(codes.T)


def _by_channel(values: Floats, node: Node) -> Floats:
    """One number for each channel, in a shape that broadcasts."""
    return values.reshape((1, -1, *[1] * (len(node.sizes) - 2)) if node.kind == "conv" else (1, -1))


def _attributes(conv: nn.Module) -> dict[str, Any]:
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d))
    pads = paddings(conv)
    return {
        "kernel_shape": list(conv.kernel_size),
        "strides": list(conv.stride),
        "pads": [*(begin for begin, _ in pads), *(end for _, end in pads)],
        "dilations": list(conv.dilation),
        "group": conv.groups,
    }

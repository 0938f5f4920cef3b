"""Convolutions and linear layers in ONNX: weights, bias and the operator itself.

Weights are int8 (or packed) behind a per-channel ``DequantizeLinear`` with an explicit tensor of zero points, without
which Gemm silently stays in float. Biases are int32 behind a ``DequantizeLinear`` of scale ``s_x * s_w``; another scale
would keep the convolution in float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn

from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.export.metadata import LayerRecord
from qkd_deploy.export.ops.shallow_input import align_input_channels
from qkd_deploy.export.ops.tokens import POINTWISE
from qkd_deploy.export.packing import emit_weight_codes
from qkd_deploy.graph.integer.layer import IntegerLayer
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node


def emit_layer(
    builder: GraphBuilder, frozen: FrozenModel, node: Node, operand: ir.Value, weights: str
) -> tuple[ir.Value, LayerRecord]:
    """Append a layer.

    Args:
        builder: where constants and nodes go.
        frozen: the integer model.
        node: the layer's node.
        operand: its dequantized (or float) input; of a layer on tokens, the image that ``Tokens`` makes of them.
        weights: "int8" or "packed".

    Returns:
        the float value before any quantizer, and the layer's row of the table.
    """
    name, layer = node.name, frozen.layer(node)
    module = frozen.network.get_submodule(str(node.target))
    codes = layer.codes.cpu().numpy()
    linear = isinstance(module, nn.Linear)
    integer = node.source is not None and (node.quantizer is not None or linear)
    attributes = {"transB": 1} if linear else _conv_attributes(module)
    tokens = node.is_on_tokens
    if tokens:
        codes, attributes = codes.reshape(*codes.shape, 1, 1), POINTWISE
    elif integer and not linear:
        wide = align_input_channels(
            builder, name, operand, frozen.graph.node(node.inputs[0]).shape or (), codes, attributes
        )
        operand, codes, attributes = wide.operand, wide.weight, wide.attributes
    weight = dequantize_weight(
        builder, name, emit_weight_codes(builder, name, codes, layer, weights), layer.scale.cpu().numpy()
    )
    operands = [operand, weight, _bias(builder, frozen, node, layer)]
    if linear and not tokens:
        value = _gemm(builder, node, codes.shape[1], operands, attributes)
    else:
        value = builder.add("Conv", operands, f"{name}.float", node=name, attributes=attributes)
    operator = "Gemm" if linear and not tokens else "Conv"
    kernel = {"Gemm": "QGemm", "Conv": "QLinearConv"}[operator] if integer else f"{operator} (float)"
    source_bits = frozen.grid(node.source).bits if node.source is not None else 32
    return value, LayerRecord(name, str(node.target), operator, layer.weight_bits, source_bits, layer.upscale, kernel)


def dequantize_weight(builder: GraphBuilder, name: str, codes: ir.Value, scale: npt.NDArray[np.float32]) -> ir.Value:
    """Weight codes in real units: per output channel, with explicit zero points."""
    constants = [
        builder.constant(f"{name}.weight_scale", scale),
        builder.constant(f"{name}.weight_zero_point", np.zeros(len(scale), np.int8)),
    ]
    output = f"{name}.weight_dequantized"
    return builder.add("DequantizeLinear", [codes, *constants], output, node=f"{name}.weight", attributes={"axis": 0})


def _bias(builder: GraphBuilder, frozen: FrozenModel, node: Node, layer: IntegerLayer) -> ir.Value:
    """int32 on the grid ``f32(s_x * s_w)``; float where the input is float."""
    name, values = node.name, layer.bias.cpu().numpy()
    codes = builder.constant(f"{name}.bias", values)
    if node.source is None:
        return codes
    scale = frozen.grid(node.source).scale.cpu().numpy() * layer.scale.cpu().numpy()
    constants = [
        builder.constant(f"{name}.bias_scale", scale.astype(np.float32)),
        builder.constant(f"{name}.bias_zero_point", np.zeros(len(values), np.int32)),
    ]
    output = f"{name}.bias_dequantized"
    return builder.add("DequantizeLinear", [codes, *constants], output, node=f"{name}.bias", attributes={"axis": 0})


def _gemm(
    builder: GraphBuilder, node: Node, features: int, operands: list[ir.Value], attributes: dict[str, Any]
) -> ir.Value:
    """Gemm takes matrices: tensors of other ranks are reshaped around it."""
    name, shape = node.name, list(node.shape or ())
    if len(shape) == 2:
        return builder.add("Gemm", operands, f"{name}.float", node=name, attributes=attributes)
    rows = builder.constant(f"{name}.rows", np.array([-1, features], np.int64))
    matrix = builder.add("Reshape", [operands[0], rows], f"{name}.matrix", node=f"{name}.rows")
    product = builder.add("Gemm", [matrix, *operands[1:]], f"{name}.product", node=name, attributes=attributes)
    target = builder.constant(f"{name}.shape", np.array(node.open_shape, np.int64))
    return builder.add("Reshape", [product, target], f"{name}.float", node=f"{name}.columns")


def _conv_attributes(conv: nn.Module) -> dict[str, Any]:
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d))
    kernel, dilation = conv.kernel_size, conv.dilation
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        pads = [0] * (2 * len(kernel)) if conv.padding == "valid" else [int(p) for p in conv.padding] * 2
    return {
        "kernel_shape": list(kernel),
        "strides": list(conv.stride),
        "pads": pads,
        "dilations": list(dilation),
        "group": conv.groups,
    }

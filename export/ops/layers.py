"""Convolutions and linear layers in ONNX: weights, bias and the operator itself.

Weights are int8 (or packed) behind a per-channel ``DequantizeLinear`` with an explicit tensor of zero points, without
which Gemm silently stays in float. Biases are int32 behind a ``DequantizeLinear`` of scale ``s_x * s_w``; another scale
would keep the convolution in float.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn

from qkd_deploy.export.align_input_channels import align_input_channels
from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.export.metadata import LayerRecord
from qkd_deploy.export.packing import emit_weight_codes
from qkd_deploy.export.tokens import POINTWISE, image_of_tokens, tokens_of_image
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import layer_of, paddings

_KERNELS = {"Conv": "QLinearConv", "Gemm": "QGemm"}
"""The runtime's integer kernels of both operators."""


def emit_conv(ctx: EmitContext, node: Node) -> ir.Value:
    """Append a convolution; in integers only where its result has a quantizer."""
    operand, codes = ctx.values[node.inputs[0]], weight_codes(ctx, node)
    attributes = conv_attributes(ctx.frozen.network.get_submodule(str(node.target)))
    integer = node.source is not None and node.quantizer is not None
    if integer:
        wide = align_input_channels(ctx.builder, node.name, operand, ctx.shape(node.inputs[0]), codes, attributes)
        operand, codes, attributes = wide.operand, wide.weight, wide.attributes
    operands = [operand, *_weight_and_bias(ctx, node, codes)]
    value = ctx.builder.add("Conv", operands, f"{node.name}.float", node=node.name, attributes=attributes)
    record_layer(ctx, node, "Conv", integer=integer)
    return value


def emit_linear(ctx: EmitContext, node: Node) -> ir.Value:
    """Append a linear layer: a convolution where it has codes in and out and reads tokens, else Gemm."""
    if node.is_on_tokens:
        return _emit_on_tokens(ctx, node)
    codes = weight_codes(ctx, node)
    operands = [ctx.values[node.inputs[0]], *_weight_and_bias(ctx, node, codes)]
    value = _gemm(ctx.builder, node, codes.shape[1], operands)
    record_layer(ctx, node, "Gemm", integer=node.source is not None)
    return value if node.quantizer is None else ctx.quantized(node, value)


def _emit_on_tokens(ctx: EmitContext, node: Node) -> ir.Value:
    """A linear layer as a 1x1 convolution over an image of its tokens; returns the dequantized tokens."""
    params, image, codes = ctx.params(node), image_of_tokens(ctx, node), weight_codes(ctx, node)
    operands = [image, *_weight_and_bias(ctx, node, codes.reshape(*codes.shape, 1, 1))]
    value = ctx.builder.add("Conv", operands, f"{node.name}.float", node=node.name, attributes=POINTWISE)
    record_layer(ctx, node, "Conv", integer=True)
    return ctx.record(node, params, tokens_of_image(ctx, node, ctx.quantize(node, params, value)))


def weight_codes(ctx: EmitContext, node: Node) -> npt.NDArray[np.int8]:
    """The weight codes of a layer."""
    codes: npt.NDArray[np.int8] = ctx.frozen.layer(node).codes.cpu().numpy()
    return codes


def _weight_and_bias(ctx: EmitContext, node: Node, codes: npt.NDArray[np.int8]) -> tuple[ir.Value, ir.Value]:
    return emit_weight(ctx, node, codes), emit_bias(ctx, node)


def emit_weight(ctx: EmitContext, node: Node, codes: npt.NDArray[np.int8]) -> ir.Value:
    """The weight of a layer in real units, from codes in the shape that the operator takes."""
    layer, owner = ctx.frozen.layer(node), _owner(ctx, node)
    stored = emit_weight_codes(ctx.builder, node.name, codes, layer, ctx.weights, owner)
    return dequantize_weight(ctx.builder, node.name, stored, layer.scale.cpu().numpy(), owner)


def _owner(ctx: EmitContext, node: Node) -> Hashable:
    """The weights of a layer, which is used in several places, or shares its parameter with others."""
    weight = layer_of(ctx.frozen.network, node).weight
    return id(weight) if isinstance(weight, nn.Parameter) else str(node.target)


def dequantize_weight(
    builder: GraphBuilder, name: str, codes: ir.Value, scale: npt.NDArray[np.float32], owner: Hashable = None
) -> ir.Value:
    """Weight codes in real units: per output channel, with explicit zero points."""
    constants = [
        builder.constant(f"{name}.weight_scale", scale, owner=owner),
        builder.constant(f"{name}.weight_zero_point", np.zeros(len(scale), np.int8), owner=owner),
    ]
    output = f"{name}.weight_dequantized"
    return builder.add("DequantizeLinear", [codes, *constants], output, node=f"{name}.weight", attributes={"axis": 0})


def emit_bias(ctx: EmitContext, node: Node, *, finer: int = 0) -> ir.Value:
    """int32 on the grid ``f32(s_x * s_w)``, finer by so many bits; float where the input is float."""
    name, b, layer = node.name, ctx.builder, ctx.frozen.layer(node)
    values = layer.bias.cpu().numpy()
    values = values << finer if finer else values
    codes = b.constant(f"{name}.bias", values)
    if node.source is None:
        return codes
    scale = ctx.frozen.grid(node.source).scale.cpu().numpy() * layer.scale.cpu().numpy()
    constants = [
        b.constant(f"{name}.bias_scale", scale.astype(np.float32) / np.float32(2**finer)),
        b.constant(f"{name}.bias_zero_point", np.zeros(len(values), np.int32), owner=_owner(ctx, node)),
    ]
    output = f"{name}.bias_dequantized"
    return b.add("DequantizeLinear", [codes, *constants], output, node=f"{name}.bias", attributes={"axis": 0})


def _gemm(builder: GraphBuilder, node: Node, features: int, operands: list[ir.Value]) -> ir.Value:
    """Gemm takes matrices: tensors of other ranks are reshaped around it."""
    name, attributes = node.name, {"transB": 1}
    if len(node.sizes) == 2:
        return builder.add("Gemm", operands, f"{name}.float", node=name, attributes=attributes)
    rows = builder.integers(f"{name}.rows", [-1, features])
    matrix = builder.add("Reshape", [operands[0], rows], f"{name}.matrix", node=f"{name}.rows")
    product = builder.add("Gemm", [matrix, *operands[1:]], f"{name}.product", node=name, attributes=attributes)
    target = builder.integers(f"{name}.shape", node.open_shape)
    return builder.add("Reshape", [product, target], f"{name}.float", node=f"{name}.columns")


def conv_attributes(conv: nn.Module) -> dict[str, Any]:
    """The attributes of a convolution."""
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d))
    pads = paddings(conv)
    return {
        "kernel_shape": list(conv.kernel_size),
        "strides": list(conv.stride),
        "pads": [*(begin for begin, _ in pads), *(end for _, end in pads)],
        "dilations": list(conv.dilation),
        "group": conv.groups,
    }


def record_layer(ctx: EmitContext, node: Node, operator: str, *, integer: bool) -> None:
    """Enter a layer in the table of layers."""
    layer = ctx.frozen.layer(node)
    kernel = _KERNELS[operator] if integer else f"{operator} (float)"
    source_bits = ctx.frozen.grid(node.source).bits if node.source is not None else 32
    ctx.layers.append(
        LayerRecord(node.name, str(node.target), operator, layer.weight_bits, source_bits, layer.upscale, kernel)
    )


EMITTERS = {
    "conv": Emitter(emit_conv),
    "linear": Emitter(emit_linear, quantizes=True),
}

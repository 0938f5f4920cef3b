"""Convolutions and linear layers."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import in_steps, with_number
from qkd_deploy.export.litert.grid import Grid, Scales, fitted, made_grid
from qkd_deploy.export.litert.kernels import Geometry, Weights, activation, convolved, in_powers_of_two
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import is_depthwise, layer_of, paddings

_EXACT = 2**24
"""Integers up to here are float32 numbers, and so are their sums in any order."""


def emit_conv(ctx: LiteContext, node: Node) -> Value:
    """A convolution of images; one of rows is one of images with a height of 1."""
    source = ctx.known_grid(node.inputs[0], node)
    if node.quantizer is None:
        raise unsupported(node, "its result is in float")
    conv, layer, params = layer_of(ctx.frozen.network, node), ctx.frozen.layer(node), ctx.params(node)
    codes = layer.codes.cpu().numpy()
    if codes.ndim == 3:
        codes = codes[:, :, None, :]
    multipliers = _scales(ctx, node, source) / np.float32(params.scale.item())
    weights = Weights(codes, layer.bias.cpu().numpy(), multipliers, copies=int(is_depthwise(conv)))
    image = ctx.image(node.inputs[0])
    made, grid = convolved(ctx, node.name, image, source, made_grid(params), weights, _geometry(conv))
    shape = ctx.file.shapes[made]
    if len(node.sizes) == 3:
        made = ctx.reshaped(made, (shape[0], *shape[2:]), grid)
    return Value(made, grid, last=True)


def _geometry(conv: nn.Conv1d | nn.Conv2d) -> Geometry:
    strides, dilations, pads = tuple(conv.stride), tuple(conv.dilation), paddings(conv)
    if len(strides) == 1:
        strides, dilations, pads = (1, *strides), (1, *dilations), ((0, 0), *pads)
    return Geometry((strides[0], strides[1]), (dilations[0], dilations[1]), (pads[0], pads[1]))


def _scales(ctx: LiteContext, node: Node, source: Grid) -> Scales:
    """``f32(s_x * s_w)`` of every output channel."""
    made: Scales = np.float32(source.scale) * ctx.frozen.layer(node).scale.cpu().numpy()
    return made


def emit_linear(ctx: LiteContext, node: Node) -> Value:
    """A linear layer in integers; the last one, which gives floats, as an exact product of integers in float32."""
    layer, source = ctx.frozen.layer(node), ctx.known_grid(node.inputs[0], node)
    if node.quantizer is None:
        return _float_linear(ctx, node, source)
    params = ctx.params(node)
    multipliers = _scales(ctx, node, source) / np.float32(params.scale.item())
    index, grid = ctx.natural(node.inputs[0]), made_grid(params)
    found = fitted(multipliers, source, grid)
    if found is None:
        index, source = in_powers_of_two(ctx, index, source)
        found = fitted(multipliers, source, grid)
    assert found is not None  # nothing is rounded between powers of two
    grid, scales = found
    weight = ctx.file.constant(f"{node.name}.weight", layer.codes.cpu().numpy(), scale=scales)
    bias = layer.bias.cpu().numpy()
    offset = ctx.file.constant(f"{node.name}.bias", bias, scale=np.float32(source.label) * scales)
    made = ctx.codes(node.name, ctx.sizes(node), grid)
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims, options.fusedActivationFunction = True, activation(grid)
    ctx.file.operator("FULLY_CONNECTED", [index, weight, offset], [made], options)
    return Value(made, grid)


def _float_linear(ctx: LiteContext, node: Node, source: Grid) -> Value:
    """``f32(acc + bias) * f32(s_x * s_w)``: the sums are integers that float32 holds."""
    layer, name = ctx.frozen.layer(node), node.name
    codes, bias = layer.codes.cpu().numpy().astype(np.float32), layer.bias.cpu().numpy()
    if layer.accumulator + int(np.abs(bias).max()) > _EXACT:
        raise unsupported(node, "its sums are beyond the integers of float32")
    x = in_steps(ctx, ctx.natural(node.inputs[0]), source)
    weight = ctx.file.constant(f"{name}.weight", codes)
    offset = ctx.file.constant(f"{name}.bias", bias.astype(np.float32))
    sums, options = ctx.file.tensor(f"{name}.sums", ctx.sizes(node)), schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    ctx.file.operator("FULLY_CONNECTED", [x, weight, offset], [sums], options)
    return Value(with_number(ctx, name, "MUL", sums, _scales(ctx, node, source)), None)


EMITTERS = {"conv": emit_conv, "linear": emit_linear}

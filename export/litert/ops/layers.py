"""Convolutions and linear layers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import in_steps, step, with_number
from qkd_deploy.export.litert.grid import EXACT, Grid, Scales, fitted, made_grid
from qkd_deploy.export.litert.kernels import Geometry, Weights, activation, convolved, in_powers_of_two
from qkd_deploy.export.litert.ops.movement import sliced
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import is_depthwise, layer_of, paddings


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
    """``f32(acc + bias) * f32(s_x * s_w)``: sums are integers that float32 holds, large ones in two parts.

    Weights are stored as bytes, which XNNPACK makes floats while it loads the file.

    Raises:
        UserError: two parts are not enough.
    """
    layer, name = ctx.frozen.layer(node), node.name
    codes, bias = layer.codes.cpu().numpy(), layer.bias.cpu().numpy().astype(np.float32)
    x, length = in_steps(ctx, ctx.natural(node.inputs[0]), source), codes.shape[1]
    total, most = None, np.abs(codes.astype(np.int64)) * source.params.extent
    for count in (1, 2):
        parts = [range(length)] if count == 1 else [range(length // 2), range(length // 2, length)]
        if all((most[:, part].sum(1) + np.abs(bias) <= EXACT).all() for part in parts):
            break
    else:
        raise unsupported(node, "its sums are beyond the integers of float32")
    for part in parts:
        made = _float_sums(ctx, node, sliced(ctx, x, None, len(node.sizes) - 1, part), codes[:, part], bias)
        total, bias = made if total is None else step(ctx, name, "ADD", [total, made]), np.zeros_like(bias)
    assert total is not None
    return Value(with_number(ctx, name, "MUL", total, _scales(ctx, node, source)), None)


def _float_sums(
    ctx: LiteContext, node: Node, x: int, codes: npt.NDArray[np.int8], bias: npt.NDArray[np.float32]
) -> int:
    """Sums of products of integers, in float32."""
    stored = ctx.file.constant(f"{node.name}.codes", codes, scale=1.0)
    weight = ctx.file.tensor(f"{node.name}.weight", codes.shape)
    ctx.file.operator("DEQUANTIZE", [stored], [weight], schema.DequantizeOptionsT())
    offset = ctx.file.constant(f"{node.name}.bias", bias)
    made, options = ctx.file.tensor(f"{node.name}.sums", ctx.sizes(node)), schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    ctx.file.operator("FULLY_CONNECTED", [x, weight, offset], [made], options)
    return made


EMITTERS = {"conv": emit_conv, "linear": emit_linear}

"""Inputs, constants and outputs."""

from __future__ import annotations

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import dequantized, quantized, with_number
from qkd_deploy.export.litert.grid import true_grid
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.constants import pixel_map
from qkd_deploy.graph.quantized import QuantizedTensor

_IMAGE = 4


def emit_input(ctx: LiteContext, node: Node) -> Value:
    """Floats, or raw pixels, in the network's layout; images get their channels last."""
    raw, last = ctx.input_type == "uint8" and node.quantizer is not None, len(node.sizes) == _IMAGE
    if node.dtype != torch.float32 or node.span is not None:
        raise unsupported(node, "it takes whole numbers")
    if raw:
        return _emit_pixels(ctx, node, last=last)
    index = ctx.file.tensor(node.name, ctx.sizes(node))
    ctx.inputs.append(index)
    if last:
        index = ctx.transposed(index, (0, 2, 3, 1), None)
    found = pixel_map(ctx.frozen.network, node)
    if found is not None:
        for code, numbers in (("SUB", found.offset), ("DIV", found.gain)):
            index = with_number(ctx, node.name, code, index, numbers.cpu().numpy())
    return (
        Value(index, None, last)
        if node.quantizer is None
        else quantized(ctx, node.name, index, ctx.params(node), last=last)
    )


def _emit_pixels(ctx: LiteContext, node: Node, *, last: bool) -> Value:
    """Codes as they come; XNNPACK knows no unsigned bytes, so that an operator outside it subtracts 128."""
    grid = true_grid(ctx.params(node))
    given = ctx.file.tensor(node.name, ctx.sizes(node), np.uint8, scale=grid.label, zero_point=grid.zero + 128)
    ctx.inputs.append(given)
    index = ctx.codes(f"{node.name}.signed", ctx.sizes(node), grid)
    ctx.file.operator("QUANTIZE", [given], [index], schema.QuantizeOptionsT())
    return Value(ctx.transposed(index, (0, 2, 3, 1), grid) if last else index, grid, last)


def emit_constant(ctx: LiteContext, node: Node) -> Value:
    """A tensor that does not depend on the input."""
    made = ctx.constants[node.name]
    if not isinstance(made, QuantizedTensor):
        return Value(ctx.file.constant(node.name, made.detach().cpu().numpy().astype(np.float32)), None)
    grid = true_grid(made.grid)
    codes = (made.codes.detach().cpu().numpy() + grid.zero).astype(np.int8)
    return Value(ctx.file.constant(node.name, codes, scale=grid.label, zero_point=grid.zero), grid)


def output(ctx: LiteContext, name: str) -> int:
    """A tensor as the network returns it: floats, in its own layout."""
    value, index = ctx.values[name], ctx.natural(name)
    return index if value.grid is None else dequantized(ctx, index, value.grid)

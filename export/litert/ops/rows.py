"""Functions of rows: LayerNorm, softmax, and the exponentials in it."""

from __future__ import annotations

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import dequantized, from_steps, in_steps, quantized, reduced, step, with_number
from qkd_deploy.export.litert.ops.movement import sliced
from qkd_deploy.export.litert.pairs import Floats
from qkd_deploy.graph.exact.pairs import deviation
from qkd_deploy.graph.exact.rows import (
    ALL_ZERO,
    FLOAT32_ROW,
    eps_in_steps,
    halvings,
    row_center,
    softmax_table,
    sum_step,
    whole_steps,
)
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import real

_LONGEST_SOFTMAX = 128
"""Terms that are added one by one, as ONNX Runtime adds them."""


def emit_layer_norm(ctx: LiteContext, node: Node) -> Value:
    """The operations of the integer model in their order; what it computes in float64 is computed in pairs here."""
    source, (_, weight, bias), name = ctx.known_grid(node.inputs[0], node), node.args, node.name
    if node.quantizer is None:
        raise unsupported(node, "its result is in float")
    length, params = node.sizes[-1], source.params
    if length > FLOAT32_ROW:
        raise unsupported(node, f"its rows are longer than {FLOAT32_ROW}")
    c = in_steps(ctx, ctx.natural(node.inputs[0]), source)
    shift = params.zero_point - row_center(params.zero_point + params.hi, length)
    if shift:
        c = with_number(ctx, name, "ADD", c, shift)
    total = reduced(ctx, name, "SUM", c)
    squares = reduced(ctx, name, "SUM", step(ctx, name, "MUL", [c, c]))
    divisor = deviation(Floats(ctx, name), total, squares, length, eps_in_steps(node.kwargs["eps"], source.scale))
    moved = step(ctx, name, "SUB", [c, with_number(ctx, name, "DIV", total, length)])
    y = step(ctx, name, "DIV", [moved, divisor])
    for code, ref in (("MUL", weight), ("ADD", bias)):
        if ref is not None:
            y = with_number(ctx, name, code, y, real(ctx.constants[ref.name]).detach().cpu().numpy())
    return quantized(ctx, name, y, ctx.params(node))


def emit_exponential(ctx: LiteContext, node: Node) -> Value:
    """Exponentials of codes less their row's largest; the grid keeps clear of all ties."""
    source, name = ctx.known_grid(node.inputs[0], node), node.name
    c, scale = in_steps(ctx, ctx.natural(node.inputs[0]), source), source.params.scale
    unit = scale
    if len(node.inputs) > 1:
        unit, times = sum_step(scale), min(int(halvings(scale)), ALL_ZERO)
        if times:
            half = with_number(ctx, name, "ADD", with_number(ctx, name, "MUL", c, 2.0**-times), 0.5)
            c = step(ctx, name, "FLOOR", [half])
        offsets = sum((whole_steps(real(ctx.constants[ref]), unit) for ref in node.inputs[1:]), torch.zeros(()))
        c = with_number(ctx, name, "ADD", c, offsets.detach().cpu().numpy())
    below = with_number(ctx, name, "MUL", step(ctx, name, "SUB", [c, reduced(ctx, name, "REDUCE_MAX", c)]), unit.item())
    params = ctx.params(node)
    made = with_number(ctx, name, "DIV", step(ctx, name, "EXP", [below]), params.scale.item())
    return from_steps(ctx, name, made, params)


def emit_softmax(ctx: LiteContext, node: Node) -> Value:
    """Shares from a table of exponentials, which are added one by one; in float behind the last integer kernels."""
    name, length = node.name, node.sizes[-1]
    if node.quantizer is None:
        return _float_softmax(ctx, node)
    if length > _LONGEST_SOFTMAX:
        raise unsupported(node, f"its rows are longer than {_LONGEST_SOFTMAX}")
    source = ctx.known_grid(node.inputs[0], node)
    c = in_steps(ctx, ctx.natural(node.inputs[0]), source)
    places = with_number(ctx, name, "ADD", step(ctx, name, "SUB", [c, reduced(ctx, name, "REDUCE_MAX", c)]), 255)
    e = _looked_up(ctx, name, places, softmax_table(source.scale, length))
    axis = len(node.sizes) - 1
    total = sliced(ctx, e, None, axis, range(1))
    for place in range(1, length):
        total = step(ctx, name, "ADD", [total, sliced(ctx, e, None, axis, range(place, place + 1))])
    shares = step(ctx, name, "DIV", [with_number(ctx, name, "MUL", e, 256), total])
    return from_steps(ctx, name, shares, ctx.params(node))


def _looked_up(ctx: LiteContext, name: str, places: int, table: np.ndarray) -> int:
    """Numbers of a table at places that are whole numbers in float32; outside XNNPACK."""
    shape, cast = ctx.file.shapes[places], schema.CastOptionsT()
    cast.inDataType, cast.outDataType = schema.TensorType.FLOAT32, schema.TensorType.INT32
    whole, made = ctx.file.tensor(f"{name}.places", shape, np.int32), ctx.file.tensor(f"{name}.exponentials", shape)
    ctx.file.operator("CAST", [places], [whole], cast)
    ctx.file.operator("GATHER", [ctx.file.constant(f"{name}.table", table), whole], [made], schema.GatherOptionsT())
    return made


def _float_softmax(ctx: LiteContext, node: Node) -> Value:
    value, index, options = ctx.values[node.inputs[0]], ctx.natural(node.inputs[0]), schema.SoftmaxOptionsT()
    options.beta = 1.0
    floats = index if value.grid is None else dequantized(ctx, index, value.grid)
    return Value(step(ctx, node.name, "SOFTMAX", [floats], options), None)


EMITTERS = {"layer_norm": emit_layer_norm, "exponential": emit_exponential, "softmax": emit_softmax}

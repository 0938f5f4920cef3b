"""Other grids, joins and borders for accelerators, written so that the HTP neither folds nor drops what cuts codes."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import NamedParams
from qkd_deploy.export.ops.movement import channels_of
from qkd_deploy.export.qnn.context import PairedContext
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key


def emit_concat(ctx: PairedContext, node: Node) -> ir.Value:
    """Concatenate operands, those on other grids brought to that of the result by a product first.

    Without it, the HTP makes the codes of a layer on the grid of the result at once, and nothing cuts them at the ends
    of their own.
    """
    name, b, own, operands = node.name, ctx.builder, ctx.params(node), []
    for number, operand in enumerate(node.inputs):
        value, known = ctx.values[operand], ctx.grids.get(operand)
        if known is not None and float(known.params.scale) != float(own.scale):
            product = b.add(
                "Mul", [value, _number(ctx, f"{name}.{number}", 1.0)], f"{name}.operand_{number}", node=name
            )
            value = ctx.pair(f"{name}.operand_{number}", product, ctx.scale_and_zero_point(name, own))
        operands.append(value)
    return b.add("Concat", operands, f"{name}.float", node=name, attributes={"axis": node.kwargs["dim"]})


def _number(ctx: PairedContext, name: str, value: float) -> ir.Value:
    """A positive number as the code 1."""
    b = ctx.builder
    scale = b.scalar(f"{name}.factor", value, np.float32)
    operands = [b.scalar(f"{name}.one", 1, np.uint8), scale, b.scalar(f"{name}.factor_zero_point", 0, np.uint8)]
    return b.add("DequantizeLinear", operands, f"{name}.number", node=f"{name}.one")


def emit_requantize(ctx: PairedContext, node: Node) -> ir.Value:
    """Put codes on another grid by a product with one, cut before: sums with zero were seen to give other codes.

    The HTP lets a sum behind read the product, which nothing cuts at the ends of the other grid then.
    """
    operand, own = node.inputs[0], ctx.params(node)
    value = ctx.values[operand]
    if operand in ctx.grids:
        grid = ctx.grids[operand].params
        ratio = float(own.scale) / float(grid.scale)
        lo, hi = max(math.floor(own.lo * ratio), grid.lo), min(math.ceil(own.hi * ratio), grid.hi)
        value = ctx.cut(f"{node.name}.cut", value, ctx.scale_and_zero_point(*ctx.grids[operand]), grid, (lo, hi))
    return ctx.builder.add("Mul", [value, _number(ctx, node.name, 1.0)], f"{node.name}.float", node=node.name)


def emit_rescale(ctx: PairedContext, node: Node) -> ir.Value:
    """Multiply by a number."""
    name, operands = node.name, [ctx.values[node.inputs[0]], _number(ctx, node.name, node.kwargs["factor"])]
    value = ctx.builder.add("Mul", operands, f"{name}.float", node=name)
    ctx.grids[name] = NamedParams(name, ctx.frozen.grid(module_key(name)))
    return ctx.pair(name, value, ctx.steps_of(name))


def emit_border(ctx: PairedContext, node: Node) -> ir.Value:
    """Pad each channel with its own value, the channels one by one where these differ."""
    name, b, whole, steps = node.name, ctx.builder, ctx.values[node.inputs[0]], ctx.steps_of(node.inputs[0])
    fills = np.array(node.kwargs["values"], np.float32)
    parts = [whole]
    if len(set(fills.tolist())) > 1:
        parts = channels_of(ctx, node, whole, len(fills))
        parts = [ctx.pair(f"{name}.of_channel_{number}", part, steps) for number, part in enumerate(parts)]
    pads = b.constant(f"{name}.pads", np.array(node.kwargs["amounts"], np.int64).T.reshape(-1))
    padded = []
    for number, (part, fill) in enumerate(zip(parts, fills, strict=False)):
        operands = [part, pads, b.constant(f"{name}.value_{number}", fill)]
        value = b.add("Pad", operands, f"{name}.padded_{number}", node=name)
        padded.append(ctx.pair(f"{name}.padded_{number}", value, steps))
    return (
        padded[0] if len(padded) == 1 else b.add("Concat", padded, f"{name}.whole", node=name, attributes={"axis": 1})
    )

"""Whole numbers and booleans that become floats in ONNX."""

from __future__ import annotations

import onnx_ir as ir
import torch

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.graph.ir import Node


def emit_byte_values(ctx: EmitContext, node: Node) -> ir.Value:
    """Read bytes as codes, without a float operator; booleans become bytes before."""
    if node.quantizer is None:
        return emit_whole_numbers(ctx, node)
    codes = ctx.values[node.inputs[0]]
    if ctx.frozen.graph.node(node.inputs[0]).dtype == torch.bool:
        codes = _cast(ctx, node, ir.DataType.UINT8, "codes")
    return ctx.record(node, ctx.params(node), codes)


def emit_whole_numbers(ctx: EmitContext, node: Node) -> ir.Value:
    """Cast to float32."""
    return _cast(ctx, node, ir.DataType.FLOAT, "float")


def _cast(ctx: EmitContext, node: Node, to: ir.DataType, suffix: str) -> ir.Value:
    operand = ctx.values[node.inputs[0]]
    return ctx.builder.add("Cast", [operand], f"{node.name}.{suffix}", node=node.name, attributes={"to": to})


EMITTERS = {
    "byte_values": Emitter(emit_byte_values, quantizes=True),
    "whole_numbers": Emitter(emit_whole_numbers),
}

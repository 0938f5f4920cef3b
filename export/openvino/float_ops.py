"""Operations that stay in float, with operands in real units."""

from __future__ import annotations

import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.ops.float_ops import emit_float_op, emit_part, emit_results
from qkd_deploy.graph.ir import Node


def draw_float(draw: Drawing, node: Node) -> ir.Value:
    """Append the translation of an operation, and put it on the node's grid, if it has one.

    Raises:
        UserError: PyTorch cannot translate the operation.
    """
    value = emit_float_op(draw.float_view(node), node)
    return on_grid(draw, node, value)


def draw_part(draw: Drawing, node: Node) -> ir.Value:
    """One of several results that are there already."""
    return on_grid(draw, node, emit_part(draw.float_view(node), node))


def draw_results(draw: Drawing, node: Node) -> None:
    """Append an operation with several results."""
    emit_results(draw.float_view(node), node)


def on_grid(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    """Put floats in real units on the node's grid, if it has one."""
    if node.quantizer is None:
        return value
    return draw.quantized(node, draw.times(node, value, 1 / float(draw.grid(node).scale)), rounded=True)


DRAWERS = {"float_op": draw_float, "part": draw_part, "batch_norm": draw_float}

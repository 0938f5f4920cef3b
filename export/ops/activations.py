"""Activation functions of quantized tensors in ONNX; decision 10 says which form each takes and why.

Those that only clip never appear: they are the ranges of the codes.
"""

from __future__ import annotations

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.ops.arithmetic import emit_requantize
from qkd_deploy.export.ops.float_ops import emit_float_op
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.activations import lookup_of, slope_of
from qkd_deploy.graph.quantized import LookupParams


def emit_leaky_relu(ctx: EmitContext, node: Node) -> ir.Value:
    """LeakyRelu with one slope; PRelu has no integer kernel."""
    slope = slope_of(ctx.frozen.network, ctx.frozen.graph, node)
    operand = ctx.values[node.inputs[0]]
    return ctx.builder.add("LeakyRelu", [operand], f"{node.name}.float", node=node.name, attributes={"alpha": slope})


def emit_lookup(ctx: EmitContext, node: Node) -> ir.Value:
    """Look codes up by codes in a table of 256; in float, the function itself.

    GatherElements on one dimension is ten times as fast as Gather, which copies every element by a call of its own.
    """
    if node.quantizer is None:
        return emit_float_op(ctx, node)
    params, b, name = ctx.params(node), ctx.builder, node.name
    assert isinstance(params, LookupParams)
    lookup = lookup_of(ctx.frozen.network, node)
    assert lookup is not None
    table = b.constant(f"{name}.{lookup.name}.table", params.table.cpu().numpy())
    flat, back = b.integers(f"{name}.flat", [-1]), b.integers(f"{name}.shape", node.open_shape)
    line = b.add("Reshape", [ctx.codes(node.inputs[0]), flat], f"{name}.line", node=f"{name}.flat")
    index = b.add("Cast", [line], f"{name}.index", node=name, attributes={"to": ir.DataType.INT32})
    found = b.add("GatherElements", [table, index], f"{name}.found", node=name, attributes={"axis": 0})
    codes = b.add("Reshape", [found, back], f"{name}.codes", node=f"{name}.back")
    return ctx.record(node, params, codes)


def emit_dropout(ctx: EmitContext, node: Node) -> ir.Value:
    """Hand on the operand: there is no dropout at inference."""
    return ctx.values[node.inputs[0]]


EMITTERS = {
    "clip": Emitter(emit_requantize),
    "lookup": Emitter(emit_lookup, quantizes=True),
    "leaky_relu": Emitter(emit_leaky_relu),
    "dropout": Emitter(emit_dropout),
}

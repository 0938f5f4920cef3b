"""Activation functions of quantized tensors in ONNX; decision 10 says which form each takes and why.

Those that only clip never appear: they are the ranges of the codes.
"""

from __future__ import annotations

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.ops.arithmetic import emit_requantize
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.activations import slope_of


def emit_leaky_relu(ctx: EmitContext, node: Node) -> ir.Value:
    """LeakyRelu with one slope; PRelu has no integer kernel."""
    slope = slope_of(ctx.frozen.network, ctx.frozen.graph, node)
    operand = ctx.values[node.inputs[0]]
    return ctx.builder.add("LeakyRelu", [operand], f"{node.name}.float", node=node.name, attributes={"alpha": slope})


def emit_dropout(ctx: EmitContext, node: Node) -> ir.Value:
    """Hand on the operand: there is no dropout at inference."""
    return ctx.values[node.inputs[0]]


EMITTERS = {
    "clip": Emitter(emit_requantize),
    "leaky_relu": Emitter(emit_leaky_relu),
    "dropout": Emitter(emit_dropout),
}

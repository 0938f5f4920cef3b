"""Sigmoid, tanh and hard sigmoid in ONNX; decision 10 says which form each takes and why."""

from __future__ import annotations

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter, plain
from qkd_deploy.export.ops.arithmetic import emit_requantize
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import before_key


def emit_tanh(ctx: EmitContext, node: Node) -> ir.Value:
    """``tanh(x) = 2 * sigmoid(2 * x) - 1``: codes of a sigmoid of the same codes read with twice the scale.

    The runtime has an integer Sigmoid and no integer Tanh. The result is read with the scale and zero point of tanh.
    """
    operand, b = node.inputs[0], ctx.builder
    codes = ctx.codes(operand)
    if node.quantizer is None:
        return ctx.apply(node, "Tanh")
    assert codes is not None
    doubled_params = ctx.grids[operand].params.times(2.0)
    constants = ctx.scale_and_zero_point(node.name, doubled_params, "doubled_")
    doubled = b.add("DequantizeLinear", [codes, *constants], f"{node.name}.doubled", node=node.name)
    return _relabelled(ctx, node, b.add("Sigmoid", [doubled], f"{node.name}.float", node=node.name))


def emit_hard_sigmoid(ctx: EmitContext, node: Node) -> ir.Value:
    """``x / 6 + 1/2`` within 0 and 1: codes of ``x`` with scale 6/256 and zero point 128, read with scale 1/256."""
    if node.quantizer is None:
        return ctx.apply(node, "HardSigmoid", alpha=1 / 6, beta=0.5)
    return _relabelled(ctx, node, emit_requantize(ctx, node))


def _relabelled(ctx: EmitContext, node: Node, value: ir.Value) -> ir.Value:
    """Codes made on one grid and read on another, so that the function between costs nothing."""
    params = ctx.params(node)
    codes = ctx.quantize(node, params, value, made=ctx.frozen.grid(before_key(node.name)))
    return ctx.record(node, params, codes)


EMITTERS = {
    "sigmoid": plain("Sigmoid"),
    "tanh": Emitter(emit_tanh, quantizes=True),
    "hard_sigmoid": Emitter(emit_hard_sigmoid, quantizes=True),
}

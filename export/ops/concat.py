"""Concatenation in ONNX."""

from __future__ import annotations

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.graph.ir import Node


def emit_concat(ctx: EmitContext, node: Node) -> ir.Value:
    """Concatenate; between quantizers the runtime makes it QLinearConcat, whose operands may be on different grids."""
    return ctx.apply(node, "Concat", axis=node.kwargs["dim"])


EMITTERS = {"concat": Emitter(emit_concat)}

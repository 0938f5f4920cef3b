"""Global pools and extremes along dimensions in ONNX."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter, plain
from qkd_deploy.graph.ir import Node


def _emit_extreme(ctx: EmitContext, node: Node, *, operator: str) -> ir.Value:
    """Reduce to the largest or smallest element; the order of codes is that of values."""
    axes = ctx.builder.integers(f"{node.name}.axes", node.kwargs["dim"])
    return ctx.move(node, operator, [axes], keepdims=int(node.kwargs["keepdim"]))


EMITTERS = {
    "global_avg_pool": plain("GlobalAveragePool"),
    "amax": Emitter(partial(_emit_extreme, operator="ReduceMax")),
    "amin": Emitter(partial(_emit_extreme, operator="ReduceMin")),
}

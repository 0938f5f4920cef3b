"""Frozen model -> ``.tflite``, node by node."""

from __future__ import annotations

import numpy as np

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import with_number
from qkd_deploy.export.litert.ops import EMITTERS
from qkd_deploy.export.litert.ops.ends import emit_constant, output
from qkd_deploy.graph.contract.operator import Operands
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.constants import SCALAR


def emit_tflite(frozen: FrozenModel, *, input_type: str = "float32", record: str = "", key: str = "record") -> bytes:
    """Write a frozen model for one sample at a time.

    Args:
        frozen: the integer model.
        input_type: "float32", or "uint8" for inputs that are the codes themselves.
        record: text that the file keeps as metadata.
        key: the name of that metadata.

    Raises:
        UserError: an operation that has no form in which XNNPACK computes what the integer model does; names it.
    """
    ctx, graph = LiteContext(frozen, input_type), frozen.graph
    constants = graph.constants()
    for node in graph.nodes:
        if node.kind == SCALAR.name:
            continue
        if node.name in constants:
            ctx.constants[node.name] = frozen.evaluate_constant(node, ctx.constants)
            if node.shape is not None:
                ctx.values[node.name] = emit_constant(ctx, node)
        else:
            ctx.values[node.name] = _emitted(ctx, node)
    return ctx.file.content(ctx.inputs, [output(ctx, name) for name in graph.outputs()], record, key)


def _emitted(ctx: LiteContext, node: Node) -> Value:
    """Append a node, and the activation function behind it where it stays in float."""
    if node.kind not in EMITTERS:
        floats = operator_of(node).operands is Operands.FLOATS
        raise unsupported(node, "it is in float" if floats else f"no exact form for {operator_of(node).docs}")
    value = EMITTERS[node.kind](ctx, node)
    if value.grid is not None or node.clip is None:
        return value
    index = value.index
    for code, limit in zip(("MAXIMUM", "MINIMUM"), node.clip, strict=True):
        if np.isfinite(limit):
            index = with_number(ctx, node.name, code, index, limit)
    return Value(index, None, value.last)

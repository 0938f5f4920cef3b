"""Frozen model -> QDQ ONNX, node by node, in the form that ONNX Runtime fuses into integer kernels.

Activations are uint8 with rank-0 scale and zero point: ``QuantizeLinear -> [Clip on uint8] -> DequantizeLinear``.
Activation functions that only clip never appear: they are the ranges of the codes. Weights are int8 (or packed) behind
a per-channel ``DequantizeLinear`` with explicit zero points, biases int32 behind one of scale ``s_x * s_w``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.metadata import LayerRecord, TensorRecord
from qkd_deploy.export.ops import EMITTERS, NOT_WRITTEN
from qkd_deploy.export.ops.constants import emit_constant
from qkd_deploy.export.ops.float_ops import emit_results
from qkd_deploy.gate.names import BATCH
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Graph, Node, Ref, references
from qkd_deploy.graph.ops import operator_of


@dataclass(frozen=True)
class Emitted:
    """An ONNX model without metadata, and the tables that describe its tensors and layers."""

    model: onnx.ModelProto
    tensors: tuple[TensorRecord, ...]
    layers: tuple[LayerRecord, ...]


def emit(
    frozen: FrozenModel,
    *,
    weights: str = "int8",
    input_type: str = "float32",
    open_sizes: bool = False,
    context: type[EmitContext] = EmitContext,
    emitters: Mapping[str, Emitter] = EMITTERS,
) -> Emitted:
    """Write a frozen model as ONNX.

    Args:
        frozen: the integer model.
        weights: "int8" or "packed" (INT4 or INT2 where the bits allow it).
        input_type: "float32", or "uint8" for inputs that are the codes themselves.
        open_sizes: write what can be written for all sizes of images so (``with_open_sizes``).
        context: how tensors are written, where that is not for ONNX Runtime's CPU kernels.
        emitters: how kinds of nodes are written.

    Raises:
        UserError: an operation that ONNX cannot express.
    """
    ctx, graph = context(frozen, weights, input_type, open_sizes), frozen.graph
    constants = graph.constants()
    for node in graph.nodes:
        if node.kind in NOT_WRITTEN:
            continue
        if node.name in constants:
            ctx.constants[node.name] = frozen.evaluate_constant(node, ctx.constants)
        if node.shape is None:
            emit_results(ctx, node)
        else:
            known = node.name in constants
            ctx.values[node.name] = emit_constant(ctx, node) if known else _emit_node(ctx, node, emitters[node.kind])
    model = ctx.builder.model(ctx.inputs, _outputs(ctx))
    _name_batch(graph, model)
    return Emitted(model, tuple(ctx.tensors), tuple(ctx.layers))


def _emit_node(ctx: EmitContext, node: Node, emitter: Emitter) -> ir.Value:
    """Append a node and its quantizer, if it has one; returns its float (dequantized) value."""
    value = emitter.function(ctx, node)
    if node.quantizer is not None:
        return value if emitter.quantizes else ctx.quantized(node, value)
    first = node.inputs[0] if node.inputs else ""
    if operator_of(node).moves_codes:
        if first in ctx.grids:
            ctx.grids.setdefault(node.name, ctx.grids[first])
        value = ctx.moved(node, value)
    return _clipped(ctx, node, value)


def _clipped(ctx: EmitContext, node: Node, value: ir.Value) -> ir.Value:
    """The activation function fused behind a tensor that stays in float."""
    if node.clip is None:
        return value
    low, high = node.clip
    output = f"{node.name}.clipped"
    if (low, high) == (0.0, float("inf")):
        return ctx.builder.add("Relu", [value], output, node=node.name)
    limits = [
        ctx.builder.scalar(f"{node.name}.{end}", limit, np.float32) if np.isfinite(limit) else None
        for end, limit in (("min", low), ("max", high))
    ]
    return ctx.builder.add("Clip", [value, *limits], output, node=node.name)


def _outputs(ctx: EmitContext) -> list[ir.Value]:
    """The outputs of the graph, under the user's names where there are any."""
    graph, outputs = ctx.frozen.graph, []
    for name, tensor in zip(output_names(graph.output), graph.outputs(), strict=True):
        outputs.append(ctx.builder.add("Identity", [ctx.values[tensor]], name, node=name))
    return [_without_identity(ctx, value) for value in outputs]


def output_names(output: Any) -> list[str]:
    """What the outputs of the graph are called: by the user's keys where they are a dict."""
    if isinstance(output, Ref):
        return ["output"]
    if isinstance(output, dict) and all(isinstance(value, Ref) for value in output.values()):
        return [str(key) for key in output]
    return [f"output_{i}" for i in range(len(list(references(output))))]


def _without_identity(ctx: EmitContext, value: ir.Value) -> ir.Value:
    """Let the producing node write the output itself where nobody else reads or returns its value."""
    identity = value.producer()
    assert identity is not None
    (source,) = identity.inputs
    assert source is not None
    if source.producer() is None or len(source.uses()) != 1 or source.name in ctx.builder.initializers:
        return value
    ctx.builder.nodes.remove(identity)
    identity.replace_input_with(0, None)
    source.name = value.name
    return source


def _name_batch(graph: Graph, model: onnx.ModelProto) -> None:
    """Call the batch dimension of the outputs by its name, which shape inference loses in reshapes.

    What has several rows an image follows the batch, but is not it.
    """
    for output, tensor in zip(model.graph.output, graph.outputs(), strict=True):
        dims, node = output.type.tensor_type.shape.dim, graph.node(tensor)
        for i in node.batch_dims:
            if node.sizes[i] == graph.batch_size:
                dims[i].dim_param = BATCH

"""Operations that stay in float: translated one by one by PyTorch's own exporter and inlined into our graph.

GroupNorm is written by hand. ONNX Runtime computes ``GroupNormalization`` with the variance ``mean(x^2) - mean(x)^2``,
which loses digits where the mean is large beside the deviation; ``InstanceNormalization`` over the groups subtracts the
mean first, as PyTorch does (decision 14).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.float_ops import PART, is_group_norm
from qkd_deploy.graph.translation.check import untranslatable
from qkd_deploy.graph.translation.translate import Translation, Untranslatable, translate

_GROUP_NORM_ARGUMENTS = ("input", "num_groups", "weight", "bias", "eps")
_INEXACT_WHEN_FUSED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Softmax")
"""Between quantizers ONNX Runtime gives these 8-bit weights of its own, or codes that are off by one (Softmax)."""


def emit_float_op(ctx: EmitContext, node: Node) -> ir.Value:
    """Translate an operation and append it to the graph; returns its value in float32 where a quantizer reads it.

    Raises:
        UserError: PyTorch cannot translate the operation.
    """
    if is_group_norm(ctx.frozen.network, node):
        return _emit_group_norm(ctx, node)
    (result,), _ = _translated(ctx, node)
    return _read_by_quantizer(ctx, node, result)


def emit_results(ctx: EmitContext, node: Node) -> None:
    """Append an operation with several results, or take several of them out of more.

    Raises:
        UserError: PyTorch cannot translate the operation.
    """
    if node.name in ctx.constants:
        return
    if node.kind == PART.name:
        ctx.results[node.name] = ctx.results[node.inputs[0]][node.args[1]]
        return
    values, translation = _translated(ctx, node)
    ctx.results[node.name] = translation.nested(values)


def emit_part(ctx: EmitContext, node: Node) -> ir.Value:
    """One of several results that are there already."""
    return _read_by_quantizer(ctx, node, ctx.results[node.inputs[0]][node.args[1]])


def _read_by_quantizer(ctx: EmitContext, node: Node, value: ir.Value) -> ir.Value:
    """A value in float32 where a quantizer reads it."""
    if node.quantizer is None or node.dtype == torch.float32:
        return value
    return ctx.builder.step(node.name, "Cast", [value], "single", to=ir.DataType.FLOAT)


def _translated(ctx: EmitContext, node: Node) -> tuple[list[ir.Value], Translation]:
    """Append the translation of an operation; returns the tensors of its result, and the translation."""
    try:
        translation = translate(ctx.frozen.network, ctx.frozen.graph, node)
    except Untranslatable as error:
        raise untranslatable(node, error) from error
    operands = [ctx.values[name] for name in dict.fromkeys(node.inputs)]
    owner = str(node.target) if isinstance(node.target, str) and not node.method else None
    return _inlined(ctx.builder, node.name, owner, translation.model.graph, operands), translation


def _inlined(
    builder: GraphBuilder, name: str, owner: str | None, graph: ir.Graph, operands: list[ir.Value]
) -> list[ir.Value]:
    """Append the nodes and initializers of ``graph`` under names that begin with ``name``; returns its outputs.

    A module, ``owner``, that is called at several places has its weights once.
    """
    replaced: dict[ir.Value | None, ir.Value | None] = {None: None}
    replaced.update(zip(graph.inputs, operands, strict=True))
    for key, value in graph.initializers.items():
        assert value.const_value is not None
        replaced[value] = builder.constant(f"{name}.{key}", value.const_value.numpy(), owner=owner)
    for part in graph:
        outputs = [ir.Value(name=f"{name}.{out.name or f'{part.name}_{i}'}") for i, out in enumerate(part.outputs)]
        part_name = f"{name}/{part.op_type}_{len(builder.nodes)}"
        inputs = [replaced[value] for value in part.inputs]
        if part.op_type in _INEXACT_WHEN_FUSED:
            inputs[0] = block_fusion(builder, inputs[0], f"{part_name}.input")
        attributes = list(part.attributes.values())
        builder.nodes.append(ir.Node(part.domain, part.op_type, inputs, attributes, outputs=outputs, name=part_name))
        replaced.update(zip(part.outputs, outputs, strict=True))
    return [value for value in map(replaced.get, graph.outputs) if value is not None]


def block_fusion(builder: GraphBuilder, value: ir.Value | None, name: str) -> ir.Value:
    """The value behind a clip that changes nothing, which keeps ONNX Runtime from fusing across it (decision 14)."""
    lowest = builder.scalar("lowest", float(np.finfo(np.float32).min), np.float32)
    return builder.add("Clip", [value, lowest], name, node=name)


def _emit_group_norm(ctx: EmitContext, node: Node) -> ir.Value:
    """Normalise ``[N, groups, length]`` and reshape back; then gain and offset of every channel."""
    arguments, b, name, shape = _bound(ctx, node), ctx.builder, node.name, node.sizes
    groups = int(arguments["num_groups"])
    rows_shape = b.integers(f"{name}.rows_shape", [-1, groups, prod(shape[1:]) // groups])
    y = b.add("Reshape", [ctx.values[arguments["input"].name], rows_shape], f"{name}.rows", node=name)
    ones = b.constant(f"{name}.ones", np.full(groups, 1, np.float32))
    zeros = b.constant(f"{name}.zeros", np.full(groups, 0, np.float32))
    eps = {"epsilon": float(arguments.get("eps", 1e-5))}
    y = b.add("InstanceNormalization", [y, ones, zeros], f"{name}.normalised", node=name, attributes=eps)
    y = b.add("Reshape", [y, b.integers(f"{name}.shape", [-1, *shape[1:]])], f"{name}.image", node=name)
    for suffix, operator in (("weight", "Mul"), ("bias", "Add")):
        given = arguments.get(suffix)
        if given is not None:
            y = b.add(operator, [y, _per_channel(ctx, node, suffix, given)], f"{name}.{suffix}ed", node=name)
    return y


def _bound(ctx: EmitContext, node: Node) -> dict[str, Any]:
    """The arguments of ``F.group_norm`` by name, of a module too."""
    bound = {**dict(zip(_GROUP_NORM_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    if isinstance(node.target, str):
        module = ctx.frozen.network.get_submodule(node.target)
        assert isinstance(module, nn.GroupNorm)
        bound |= {"num_groups": module.num_groups, "weight": module.weight, "bias": module.bias, "eps": module.eps}
    return bound


def _per_channel(ctx: EmitContext, node: Node, suffix: str, given: Ref | Tensor) -> ir.Value:
    """One number for each channel, in a shape that broadcasts over images."""
    b, name, shape = ctx.builder, f"{node.name}.{suffix}", node.sizes
    value = ctx.values[given.name] if isinstance(given, Ref) else b.constant(name, given.detach().cpu().numpy())
    column = b.integers(f"{name}_shape", [shape[1], *(1 for _ in shape[2:])])
    return b.add("Reshape", [value, column], f"{name}_column", node=node.name)


EMITTERS = {
    "float_op": Emitter(emit_float_op),
    "part": Emitter(emit_part),
}

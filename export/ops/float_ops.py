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
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.export.translation import translate
from qkd_deploy.graph.ir import Node, Ref

_GROUP_NORM_ARGUMENTS = ("input", "num_groups", "weight", "bias", "eps")
_INEXACT_WHEN_FUSED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Softmax")
"""Between quantizers ONNX Runtime gives these 8-bit weights of its own, or codes that are off by one (Softmax)."""


def emit_float_op(ctx: EmitContext, node: Node) -> ir.Value:
    """Translate an operation and append it to the graph; returns its value in float32 where a quantizer reads it.

    Raises:
        UserError: PyTorch cannot translate the operation, or it returns several tensors.
    """
    if _is_group_norm(ctx.frozen.network, node):
        return _emit_group_norm(ctx, node)
    operands = list(dict.fromkeys(node.inputs))
    graph = translate(ctx.frozen.network, node, [ctx.frozen.graph.node(name) for name in operands])
    if len(graph.outputs) != 1:
        raise UserError(
            f"{node.name} returns several tensors and stays in float; use it through single-output operations"
        )
    result = _inlined(ctx.builder, node.name, graph, [ctx.values[name] for name in operands])
    if node.quantizer is None or node.dtype == torch.float32:
        return result
    return ctx.builder.step(node.name, "Cast", [result], "single", to=ir.DataType.FLOAT)


def _inlined(builder: GraphBuilder, name: str, graph: ir.Graph, operands: list[ir.Value]) -> ir.Value:
    """Append the nodes and initializers of ``graph`` under names that begin with ``name``; returns its only output."""
    replaced: dict[ir.Value | None, ir.Value | None] = {None: None}
    replaced.update(zip(graph.inputs, operands, strict=True))
    for key, value in graph.initializers.items():
        assert value.const_value is not None
        replaced[value] = builder.constant(f"{name}.{key}", value.const_value.numpy())
    for part in graph:
        outputs = [ir.Value(name=f"{name}.{out.name or f'{part.name}_{i}'}") for i, out in enumerate(part.outputs)]
        part_name = f"{name}/{part.op_type}_{len(builder.nodes)}"
        inputs = [replaced[value] for value in part.inputs]
        if part.op_type in _INEXACT_WHEN_FUSED:
            inputs[0] = block_fusion(builder, inputs[0], f"{part_name}.input")
        attributes = list(part.attributes.values())
        builder.nodes.append(ir.Node(part.domain, part.op_type, inputs, attributes, outputs=outputs, name=part_name))
        replaced.update(zip(part.outputs, outputs, strict=True))
    result = replaced[graph.outputs[0]]
    assert result is not None
    return result


def block_fusion(builder: GraphBuilder, value: ir.Value | None, name: str) -> ir.Value:
    """The value behind a clip that changes nothing, which keeps ONNX Runtime from fusing across it (decision 14)."""
    lowest = builder.scalar("lowest", float(np.finfo(np.float32).min), np.float32)
    return builder.add("Clip", [value, lowest], name, node=name)


def _is_group_norm(network: nn.Module, node: Node) -> bool:
    """True for a GroupNorm over images whose sizes do not follow the batch."""
    called = node.target is F.group_norm
    if isinstance(node.target, str) and not node.method:
        called = isinstance(network.get_submodule(node.target), nn.GroupNorm)
    return called and node.batch_dims == (0,)


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


EMITTERS = {"float_op": Emitter(emit_float_op)}

"""Constants that multiply or shift the channels of a layer become part of it, as batch norms do.

    (W x + b) * c + d  =  (c W) x + (c b + d)    per channel

So frozen batch norms, written as arithmetic or as ``F.batch_norm``, affine layers and layer scales cost nothing. The
layer only notes what they are: they go on training, and the learned integers of the weights stay as they are, since
``c`` goes into their scales. Transpositions may stand between, and dropout in front of factors.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkd_deploy.graph.contract.channel_affine import ChannelAffine
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops.activations import DROPOUT
from qkd_deploy.graph.ops.arithmetic import ADD, MUL
from qkd_deploy.graph.ops.float_ops import FLOAT_OP
from qkd_deploy.graph.ops.layers import channel_dim, layer_of
from qkd_deploy.graph.ops.movement import TRANSPOSE
from qkd_deploy.graph.passes.constant_values import ConstantValue, constant_value
from qkd_deploy.graph.passes.context import PassContext

_DIVISIONS = (operator.truediv, torch.div, torch.divide, torch.true_divide, "div", "divide")
_KINDS = {ADD.name: "add", MUL.name: "mul"}
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_Step = tuple[str, ConstantValue]


def fold_channel_constants(context: PassContext) -> None:
    """Fold all constants a channel behind every layer: ``layer -> mul -> add`` becomes ``layer``."""
    graph = context.graph
    constants = graph.constants()
    for layer in [node for node in graph.nodes if node.is_layer and node.name not in constants]:
        module = layer_of(context.model, layer)
        last, dim = layer, channel_dim(module) % len(layer.sizes)
        while (reader := graph.only_user(last.name)) is not None:
            if reader.kind in (TRANSPOSE.name, DROPOUT.name):
                dim = reader.kwargs["dims"].index(dim) if reader.kind == TRANSPOSE.name else dim
                last = reader
                continue
            steps = _steps(context, reader, last, dim, constants)
            if not steps or not _may_move(graph, layer, last, steps):
                break
            _take(context, layer, reader, steps, module.weight.shape[0])
            graph.remove(reader, last.name)
    graph.remove_unneeded()


@dataclass(frozen=True)
class _Operand:
    """What a node does with one operand: the kind of step, the operand, and what makes a deviation of a variance."""

    kind: str
    value: Any
    eps: float | None = None


def _steps(context: PassContext, reader: Node, last: Node, dim: int, constants: Collection[str]) -> list[_Step]:
    """What a node does with the channels of its operand; [] for nodes that do something else."""
    graph, operands = context.graph, _operands(context, reader, last)
    if reader.shape != last.shape:
        return []
    for operand in operands:
        if not isinstance(operand.value, Ref) or operand.value.name not in constants:
            return []
        made = graph.node(operand.value.name)
        fits = dim == 1 if reader.target is F.batch_norm else _is_by_channel(made, last, dim)
        if not fits or not made.dtype.is_floating_point:
            return []
    return [(operand.kind, _value(context, operand)) for operand in operands]


def _value(context: PassContext, operand: _Operand) -> ConstantValue:
    value = constant_value(context.model, context.graph, operand.value.name)
    return value if operand.eps is None else _deviation(value, operand.eps)


def _operands(context: PassContext, reader: Node, last: Node) -> list[_Operand]:
    """What a node does with ``last``."""
    if reader.kind in _KINDS:
        one, two = reader.args
        return [_Operand(_KINDS[reader.kind], two if one == Ref(last.name) else one)]
    if reader.kind != FLOAT_OP.name or reader.args[:1] != (Ref(last.name),):
        return []
    if reader.target in _DIVISIONS and len(reader.args) == 2 and not reader.kwargs:
        return [_Operand("div", reader.args[1])]
    return _of_batch_norm(context, reader) if reader.target is F.batch_norm else []


def _of_batch_norm(context: PassContext, reader: Node) -> list[_Operand]:
    """The steps of ``F.batch_norm`` with constant statistics."""
    low = Lowering(context.model, context.graph)
    bound = low.bind(reader, F.batch_norm, _NORM, weight=None, bias=None, training=False, eps=1e-5)
    if bound["training"] is not False:
        return []
    affine = [_Operand("mul", bound["weight"]), _Operand("add", bound["bias"])]
    norm = [_Operand("sub", bound["running_mean"]), _Operand("div", bound["running_var"], bound["eps"])]
    return [*norm, *(operand for operand in affine if operand.value is not None)]


def _deviation(variance: ConstantValue, eps: float) -> ConstantValue:
    """The square root of a variance that is a constant."""
    graph = variance.graph
    root = Node(graph.unused_name("root"), FLOAT_OP.name, (graph.output,), {"eps": eps}, target=standard_deviation)
    graph.append(root)
    graph.output = Ref(root.name)
    return variance


def standard_deviation(variance: Tensor, eps: float) -> Tensor:
    """Compute what a batch norm divides by."""
    return torch.sqrt(variance + eps)


def _is_by_channel(value: Node, like: Node, dim: int) -> bool:
    """True where a tensor has one element, or one for every channel, and would be broadcast along all else."""
    if len(value.sizes) > len(like.sizes):
        return False
    own = dim - (len(like.sizes) - len(value.sizes))
    if all(size == 1 for size in value.sizes):
        return True
    return all(size == (like.sizes[dim] if place == own else 1) for place, size in enumerate(value.sizes))


def _may_move(graph: Graph, layer: Node, last: Node, steps: list[_Step]) -> bool:
    """True where the steps may stand directly behind the layer: sums may not cross a dropout, which rescales."""
    if all(kind in ("mul", "div") for kind, _ in steps):
        return True
    node = last
    while node is not layer:
        if node.kind == DROPOUT.name:
            return False
        node = graph.node(node.inputs[0])
    return True


def _take(context: PassContext, layer: Node, reader: Node, steps: list[_Step], channels: int) -> None:
    """Let a layer note the steps of a node."""
    if layer.affine is None:
        layer.affine = module_key(f"{layer.name}_affine")
        context.model.add_module(layer.affine, ChannelAffine(channels))
    affine = context.model.get_submodule(layer.affine)
    assert isinstance(affine, ChannelAffine)
    for kind, value in steps:
        affine.append(kind, value, reader.module)

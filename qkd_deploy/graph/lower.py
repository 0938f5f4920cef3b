"""Give every node of a traced graph its kind, with the functions of the contract's rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.computed_tensors import own_class
from qkd_deploy.graph.contract.lowering import Lowering, torch_key
from qkd_deploy.graph.contract.operator import Rewrite, StaysInFloat
from qkd_deploy.graph.ir import Graph, Node, Ref, substitute
from qkd_deploy.graph.ops import TORCH_OPS
from qkd_deploy.graph.ops.activations import DROPOUT
from qkd_deploy.graph.ops.arithmetic import is_neutral
from qkd_deploy.graph.ops.constants import CONSTANT, INPUT, SCALAR, constant
from qkd_deploy.graph.ops.copying import COPY, EXPAND
from qkd_deploy.graph.ops.float_ops import FLOAT_OP, FLOAT_REASONS, GENERAL_REASON, KEPT
from qkd_deploy.graph.trace.errors import leaf_advice, module_name
from qkd_deploy.graph.trace.in_place import out_of_place, switch_off

_LOWERED = (INPUT.name, CONSTANT.name, SCALAR.name)


def lower(network: nn.Module, graph: Graph, mode_leaves: set[str], kept: Collection[str] = ()) -> None:
    """Give nodes kinds and canonical arguments, in place; drop identities and what nobody reads.

    Args:
        network: the traced one; gets constants that rewriting makes, and its modules stop working in place.
        graph: as traced.
        mode_leaves: modules kept whole because they read ``self.training``.
        kept: modules that the user wants in float.

    Raises:
        UserError: an operation that can be neither quantized nor exported; names it.
    """
    in_place = switch_off(network)
    low = Lowering(network, graph)
    for node in graph.nodes:
        if node.kind not in _LOWERED:
            _lower_call(low, node, in_place, mode_leaves, kept)
    graph.remove_unneeded()
    _require_fixed_sizes(low)


def _lower_call(low: Lowering, node: Node, in_place: set[str], mode_leaves: set[str], kept: Collection[str]) -> None:
    """Make a call one of a kind, and let later readers of what it changes in place read its result."""
    if not node.args and "input" in node.kwargs:
        node.args = (node.kwargs.pop("input"),)
    changes_operand = out_of_place(node)
    target: Any = node.target
    if node.kind == "call_module":
        node.module = str(node.target)
        target = low.network.get_submodule(node.module)
        changes_operand = node.module in in_place
        if node.module in mode_leaves and node.unchanged:
            node.kind = DROPOUT.name
            return
    if node.kind == "call_module" and node.module in kept:
        node.kind, node.reason = FLOAT_OP.name, KEPT
    else:
        _lower_target(low, node, target)
    if changes_operand:
        _read_result(low.graph, node)


def _lower_target(low: Lowering, node: Node, target: Any) -> None:
    """Let the row of what is called rewrite the node; it stays in float where there is none, or the row refuses."""
    key = torch_key(target)
    row = COPY if is_neutral(node, key) else TORCH_OPS.get(key)
    node.kind, node.reason = FLOAT_OP.name, _reason(target)
    if node.shape is None and not isinstance(row, Rewrite):  # no row is about several results
        return
    if row is None:
        _make_once(low, node)
        return
    try:
        assert row.lower is not None
        row.lower(low, node, target)
    except StaysInFloat as refusal:
        node.kind, node.reason = FLOAT_OP.name, str(refusal)


def _reason(target: Any) -> str:
    """Why an operation stays in float that has no row, or whose row refuses it without a word."""
    key = own_class(target) if isinstance(target, nn.Module) else torch_key(target)
    return FLOAT_REASONS.get(key, GENERAL_REASON)


def _make_once(low: Lowering, node: Node) -> None:
    """Turn ``torch.zeros(batch, 8)`` and the like, equal for all images, into one constant row and an Expand."""
    if node.method or not callable(node.target) or not low.is_float(Ref(node.name)):
        return
    # read once, the number of images can only be the size: read again, the values may depend on it
    sizes = [low.graph.node(name) for name in node.inputs]
    if len(node.batch_dims) != 1 or len(sizes) != 1 or sizes[0].kind != SCALAR.name:
        return
    images = sizes[0].value
    args, kwargs = substitute((node.args, node.kwargs), lambda ref: images)
    made, dim = node.target(*args, **kwargs), node.batch_dims[0]
    one = made.narrow(dim, 0, 1)
    if made.shape[dim] == images and torch.equal(one.expand_as(made), made):
        repeated: list[Any] = [-1] * made.dim()
        repeated[dim] = Ref(sizes[0].name)
        low.become(node, EXPAND, (constant(low, node, one, "one"),), sizes=tuple(repeated))


def _read_result(graph: Graph, node: Node) -> None:
    """After an in-place operation, later readers of its operand see its result."""
    if isinstance(node.args[0], Ref):
        read = node.args[0].name
        later = [reader for reader in graph.users(read) if reader.position > node.position]
        graph.replace_uses_in(later, read, node.name)


def _require_fixed_sizes(low: Lowering) -> None:
    """Refuse operations in float that are told the batch size: the exporter translates them one by one, without it.

    Raises:
        UserError: such an operation; names it.
    """
    sizes = {node.name for node in low.graph.nodes if node.kind == SCALAR.name}
    for node in low.graph.nodes:
        if node.kind == FLOAT_OP.name and sizes & set(node.inputs):
            name, line = node.label.rpartition(".")[2], node.line
            raise UserError(
                f"{module_name(low.network, node.module)} gives the batch size to {name} at {line}, which stays in "
                "float and could then not be exported; let it make one sample and broadcast, or "
                + leaf_advice(low.network, node.module)
            )

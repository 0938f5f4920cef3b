"""Activation functions that the user replaces: SiLU by ReLU6, the sigmoids of gates by hard ones, ...

The one rewrite that changes what the network computes; it runs before all others. Functions are found in the lowered
graph, so that modules, functions, methods and ``x * sigmoid(x)`` are all the same to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qkd_deploy.errors import UserError, closest
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops import TORCH_OPS
from qkd_deploy.graph.ops.activations import CLIP, LEAKY_RELU
from qkd_deploy.graph.ops.arithmetic import MUL
from qkd_deploy.graph.ops.gates import HARD_SIGMOID, SIGMOID, TANH
from qkd_deploy.graph.ops.lookups import LOOKUP, lookup_of
from qkd_deploy.graph.replacements import Replacement

TORCH_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
}
"""What computes a function of ``replacements.FUNCTIONS``, with PyTorch's defaults."""

_CLIPS = {(0.0, math.inf): "relu", (0.0, 6.0): "relu6"}
_OF_KIND = {SIGMOID.name: "sigmoid", HARD_SIGMOID.name: "hardsigmoid", TANH.name: "tanh", LEAKY_RELU.name: "leaky_relu"}
_GATED = {SIGMOID.name: "silu", HARD_SIGMOID.name: "hardswish"}


@dataclass(frozen=True)
class _Found:
    """An activation function of the user's: the node that computes it, its name, and the tensor that it reads."""

    node: Node
    name: str
    operand: str


def replace_activations(network: nn.Module, graph: Graph, rules: Sequence[Replacement]) -> dict[str, int]:
    """Replace functions of the lowered graph, in place; of several rules that match one, the last wins.

    A sigmoid that multiplies its own operand is a SiLU, and no sigmoid; what a GLU or a PReLU is made of stays.

    Returns:
        what was replaced, by ``OLD=NEW`` the number of places.

    Raises:
        UserError: a rule matches nothing, or all of them together change nothing; says what the network computes.
    """
    if not rules:
        return {}
    # what lowering inserted, such as the gate of a GLU, comes from no line of the user's
    found = [function for node in graph.nodes if node.line and (function := _function_of(network, graph, node))]
    for rule in rules:
        _require_match(rule, found)
    counts: Counter[str] = Counter()
    for function in found:
        new = next((rule.new for rule in reversed(rules) if _applies(rule, function)), function.name)
        if new != function.name:
            _replace(network, graph, function, new)
            counts[f"{function.name}={new}"] += 1
    if not counts:
        raise UserError(f"the replacement {rules[-1]} changes nothing; name another function, or leave it out")
    return dict(counts)


def _function_of(network: nn.Module, graph: Graph, node: Node) -> _Found | None:
    """Recognise an activation function; None for all other nodes."""
    name, operand = "", node.inputs[0] if node.inputs else ""
    if node.kind == MUL.name:
        name, operand = _self_gated(graph, node)
    elif node.kind == CLIP.name:
        name = _CLIPS.get(node.clip or (0.0, 0.0), "")
    elif node.kind == LOOKUP.name:
        name = _of_lookup(network, node)
    elif not _opens_product(graph, node):
        name = _OF_KIND.get(node.kind, "")
    return _Found(node, name, operand) if name else None


def _self_gated(graph: Graph, product: Node) -> tuple[str, str]:
    """``x * gate(x)``: the name of that function, and x."""
    one, two = (*product.inputs, "", "")[:2]
    for operand, name in ((one, two), (two, one)):
        gate = graph.node(name) if name else product
        if gate.kind in _GATED and gate.inputs == [operand]:
            return _GATED[gate.kind], operand
    return "", ""


def _opens_product(graph: Graph, gate: Node) -> bool:
    """True for the gate of ``x * gate(x)``."""
    products = (reader for reader in graph.users(gate.name) if reader.kind == MUL.name)
    return any(_self_gated(graph, product) == (_GATED.get(gate.kind), gate.inputs[0]) for product in products)


def _of_lookup(network: nn.Module, node: Node) -> str:
    lookup = lookup_of(network, node)
    spellings = () if lookup is None else lookup.torch
    return next((name for name, function in TORCH_FUNCTIONS.items() if function in spellings), "")


def _applies(rule: Replacement, function: _Found) -> bool:
    return rule.matches(function.name, function.node.module)


def _require_match(rule: Replacement, found: Sequence[_Found]) -> None:
    if any(_applies(rule, function) for function in found):
        return
    paths = [function.node.module for function in found if function.name == rule.old]
    if paths:
        raise UserError(
            f"the replacement {rule} matches nothing: no {rule.old} is in a module of that path; "
            + closest(rule.pattern, paths, cutoff=0.3, otherwise=f"there is one in {paths[0] or 'the network itself'}")
        )
    counts = Counter(function.name for function in found)
    there = ", ".join(f"{name} ({places})" for name, places in counts.most_common())
    raise UserError(
        f"the replacement {rule} matches nothing: the network computes no {rule.old}; "
        + (f"it has {there}" if there else "it has no activation function that can be replaced")
    )


def _replace(network: nn.Module, graph: Graph, function: _Found, new: str) -> None:
    """Lower the new function in the old one's place, and drop what only the old one read."""
    node, target = function.node, TORCH_FUNCTIONS[new]
    read = node.inputs
    node.args, node.kwargs, node.clip = (Ref(function.operand),), {}, None
    node.target, node.method = target, False
    lower = TORCH_OPS[target].lower
    assert lower is not None
    lower(Lowering(network, graph), node, target)
    for name in read:
        if not graph.users(name) and name not in graph.outputs():
            graph.remove(graph.node(name))

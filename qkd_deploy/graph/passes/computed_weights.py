"""Layers whose weights are computed become layers like any other, where the input has no part in their weights.

    conv(x, f(w)) with f(w) standardised, masked, normalised, transposed, ... weights  ->  conv {weight = f(w)}

In evaluation mode ``f(w)`` is a constant, which integers can stand for. The layer computes it from the parameters
whenever it is read, so that training reaches them through ``f``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch.nn.functional as F

from qkd_deploy.graph.contract.lowering import Lowering, is_computed
from qkd_deploy.graph.contract.operator import StaysInFloat
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.float_ops import FLOAT_OP
from qkd_deploy.graph.ops.layers import PARAMETERS, become_layer
from qkd_deploy.graph.passes.constant_values import ConstantValue, constant_value
from qkd_deploy.graph.passes.context import PassContext

_FUNCTIONS = (F.linear, F.conv1d, F.conv2d)


def computed_weights(context: PassContext) -> None:
    """Make layers of the functions that read computed constants as weights."""
    low, constants = Lowering(context.model, context.graph), context.graph.constants()
    for node in context.graph.nodes:
        if node.kind == FLOAT_OP.name and node.target in _FUNCTIONS and node.name not in constants:
            _become_layer(low, node, constants)
    context.graph.remove_unneeded()


def _become_layer(low: Lowering, node: Node, constants: Collection[str]) -> None:
    bound = low.bind(node, node.target, PARAMETERS, bias=None)
    weight, bias = _source(low, bound["weight"], constants), _source(low, bound["bias"], constants)
    known = weight is not None and (bias is not None or bound["bias"] is None)
    if not known or is_computed(*(bound.get(name) for name in PARAMETERS[3:])):
        return
    assert weight is not None
    try:
        become_layer(low, node, bound, weight, bias)
    except StaysInFloat as refusal:
        node.reason = str(refusal)


def _source(low: Lowering, value: Any, constants: Collection[str]) -> ConstantValue | None:
    """The steps to a tensor of which the input is no part; None for everything else."""
    if not isinstance(value, Ref) or value.name not in constants:
        return None
    return constant_value(low.network, low.graph, value.name)

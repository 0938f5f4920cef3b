"""Which part of its operands a node needs, to compute a part of its result.

Every rule takes the node, its operands and a dimension of its result, and returns the dimension to slice of each
operand, by the operand's name; {} where the part alone cannot be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from qkd_deploy.graph.ir import Graph, Node

Dims = dict[str, int]
_Rule = Callable[[nn.Module, Node, Sequence[Node], int], Dims]

_DROPOUTS_OF_ELEMENTS = (nn.Dropout, F.dropout, torch.dropout)


def operand_dims(model: nn.Module, graph: Graph, node: Node, dim: int) -> Dims:
    """What to slice, by the names of operands, to slice dimension ``dim`` of what a node makes; {} where that fails."""
    operands = [graph.node(name) for name in node.inputs]
    rule = _RULES.get(node.kind)
    return rule(model, node, operands, dim) if rule is not None and operands else {}


def _elementwise(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    """All operands that have the dimension, and not once for all."""
    found = {}
    for operand in operands:
        shape = operand.shape or ()
        own = dim - (_rank(node) - len(shape))
        if own >= 0 and shape[own] != 1:
            found[operand.name] = own
    return found


def _concat(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    return {} if dim == node.kwargs["dim"] else _elementwise(model, node, operands, dim)


def _first_operand(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    return {operands[0].name: dim}


def _dropout(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    """As functions of elements, but for a dropout of whole channels."""
    dropout = type(model.get_submodule(node.target)) if isinstance(node.target, str) else node.target
    return {operands[0].name: dim} if dropout in _DROPOUTS_OF_ELEMENTS else {}


def _rows(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    return {} if dim == _rank(node) - 1 else {operands[0].name: dim}


def _linear(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    """The rows, unless a batch norm takes statistics over all of them."""
    return _rows(model, node, operands, dim) if node.batch_norm is None else {}


def _matmul(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    """Rows are the left operand's, columns the right one's; everything before belongs to both."""
    if len(operands) != 2 or operands[0] is operands[1]:
        return {}
    left, right = operands
    if dim == _rank(node) - 2:
        return {left.name: _rank(left) - 2}
    if dim == _rank(node) - 1:
        return {right.name: _rank(right) - 1}
    return _elementwise(model, node, operands, dim)


def _transpose(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    return {operands[0].name: node.kwargs["dims"][dim]}


def _reshape(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> Dims:
    """The dimension of the operand that is this one, if a reshape leaves it alone."""
    operand = operands[0]
    before, after = operand.shape or (), node.shape or ()
    if len(node.batch_dims) > 1:
        return {}
    for own, size in enumerate(before):
        unchanged = size == after[dim] and math.prod(before[:own]) == math.prod(after[:dim])
        if unchanged and size > 1 and own not in operand.batch_dims:
            return {operand.name: own}
    return {}


def _rank(node: Node) -> int:
    return len(node.shape or ())


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("add", "mul"), _elementwise),
    "concat": _concat,
    **dict.fromkeys(("sigmoid", "tanh", "hard_sigmoid", "table", "clip", "rescale", "leaky_relu"), _first_operand),
    "dropout": _dropout,
    **dict.fromkeys(("layer_norm", "softmax"), _rows),
    "linear": _linear,
    "matmul": _matmul,
    "transpose": _transpose,
    "reshape": _reshape,
}

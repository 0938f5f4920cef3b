"""Which dimension of which operand to slice in order to slice a result: the rules that rows refer to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from qkd_deploy.graph.ir import Node


def elements(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Slice the one operand of a function of single elements."""
    return {operands[0].name: dim}


def broadcast(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Slice all operands that have the dimension; those with one element of it are the same for every slice."""
    rank, found = len(node.sizes), {}
    for operand in operands:
        shape = operand.sizes
        own = dim - (rank - len(shape))
        if own >= 0 and shape[own] != 1:
            found[operand.name] = own
    return found


def rows(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Slice the operand of a function of rows, along any dimension but that of the rows themselves."""
    return {} if dim == len(node.sizes) - 1 else {operands[0].name: dim}


def product(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Slice the left operand for rows of a matrix product, the right one for columns, both for what is before."""
    if len(operands) != 2 or operands[0] is operands[1]:
        return {}
    rank, ranks = len(node.sizes), [len(operand.sizes) for operand in operands]
    if dim == rank - 2:
        return {operands[0].name: ranks[0] - 2}
    if dim == rank - 1:
        return {operands[1].name: ranks[1] - 1}
    return broadcast(model, node, operands, dim)


def transposed(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Slice the dimension that a transposition moved here."""
    return {operands[0].name: node.kwargs["dims"][dim]}


def reshaped(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Slice the operand's dimension that is this one, if the reshape leaves it alone."""
    operand = operands[0]
    before, after = operand.sizes, node.sizes
    if after[dim] < 2 or len(node.batch_dims) > 1:
        return {}
    in_front = math.prod(after[:dim])
    for own, size in enumerate(before):
        if size == after[dim] and math.prod(before[:own]) == in_front and own not in operand.batch_dims:
            return {operand.name: own}
    return {}

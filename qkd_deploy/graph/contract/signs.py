"""Rules for the sign of a result, from those of its operands."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from qkd_deploy.graph.contract.operator import Sign
from qkd_deploy.graph.ir import Graph, Node

_POSITIVE = {Sign.NONNEGATIVE, Sign.MOSTLY_POSITIVE}


def nonnegative(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    """The result is never negative."""
    return Sign.NONNEGATIVE


def as_operands(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    """The result goes as far below zero as the lowest operand."""
    found = set(operands) or {Sign.SIGNED}
    if found == {Sign.NONNEGATIVE}:
        return Sign.NONNEGATIVE
    return Sign.MOSTLY_POSITIVE if found <= _POSITIVE else Sign.SIGNED


def sum_of_operands(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    """Sums of what is never negative are; small negative parts may add up, so nothing is said of them."""
    return Sign.NONNEGATIVE if set(operands) == {Sign.NONNEGATIVE} else Sign.SIGNED

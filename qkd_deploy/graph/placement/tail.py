"""The tail of a network: what stands between its last integer kernels and its outputs.

Nothing in integers reads it, so one 8-bit grid for a box in pixels and its score, or steps of 1/256 for a thousand
probabilities, would lose what the float network tells, for nothing. Such a tail is computed in float instead, as the
last linear layer already hands on floats. Sums and products of like tensors lose nothing more than the layers in front
of them; they stay in integers unless they belong to a tail.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from qkd_deploy.graph.contract.lowering import named
from qkd_deploy.graph.contract.operator import Operands, Tail
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.constants import SCALAR


def tail_of(network: nn.Module, graph: Graph) -> frozenset[str]:
    """Name the tensors that are computed in float because they stand behind the last integer kernels."""
    constants = graph.constants()
    possible = {node.name for node in graph.nodes if operator_of(node).tail is not Tail.NEVER} - constants
    behind = without_integer_readers(network, graph, possible)
    found: set[str] = set()
    waiting = [node for node in graph.nodes if node.name in possible & behind and _opens(node, constants)]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            neighbours = [*graph.users(node.name), *map(graph.node, node.inputs)]
            waiting += [other for other in neighbours if other.name in behind and reads_floats(other, possible)]
    return frozenset(found & possible)


def without_integer_readers(network: nn.Module, graph: Graph, in_float: Collection[str]) -> frozenset[str]:
    """Name the tensors that no integer kernel needs, neither at once nor behind the operations that read them.

    Args:
        network: holds the modules.
        graph: its nodes.
        in_float: names of the tensors that are computed in float though integer kernels for them exist.
    """
    found: set[str] = set()
    for node in reversed(graph.nodes):
        readers = graph.users(node.name)
        if all(r.name in found and _is_no_kernel(network, r, in_float) for r in readers):
            found.add(node.name)
    return frozenset(found)


def _is_no_kernel(network: nn.Module, reader: Node, in_float: Collection[str]) -> bool:
    """True for readers that leave floats as they are; who asks for a size, such as the batch, reads no numbers."""
    if reader.kind == SCALAR.name:
        return True
    return reads_floats(reader, in_float) and not has_weights(network, reader)


def _opens(node: Node, constants: set[str]) -> bool:
    """True for operations whose results no single grid suits."""
    operator = operator_of(node)
    reads_constants = not operator.float_constants and not constants.isdisjoint(node.inputs)
    return operator.tail is Tail.ALWAYS or reads_constants


def reads_floats(node: Node, in_float: Collection[str]) -> bool:
    """True for operations that read floats where they get them: of ``in_float``, movement, and all without a kernel."""
    operator = operator_of(node)
    moves = operator.moves_codes and not operator.own_scale
    return node.name in in_float or moves or operator.operands is Operands.FLOATS


def has_weights(network: nn.Module, node: Node) -> bool:
    """True for a layer that stays in float, such as a transposed convolution: more than a tail."""
    if operator_of(node).operands is not Operands.FLOATS:
        return False
    if isinstance(node.target, str) and not node.method:
        return next(network.get_submodule(node.target).parameters(), None) is not None
    return named(node.target).startswith("conv")

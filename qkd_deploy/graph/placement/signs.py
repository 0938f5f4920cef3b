"""Which tensors can be negative, decided before any quantizer is there."""

from __future__ import annotations

import math
from collections.abc import Collection

from torch import nn

from qkd_deploy.bits import TensorSpec
from qkd_deploy.graph.contract.operator import Sign
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops import operator_of


class Signs:
    """The sign of every tensor of a graph, by the rules of the contract."""

    def __init__(self, model: nn.Module, graph: Graph, pixels: Collection[str]) -> None:
        """Find all signs.

        Args:
            model: the network.
            graph: its nodes.
            pixels: names of the inputs whose scale and zero point are known.
        """
        self._model, self._graph = model, graph
        self._signs: dict[str, Sign] = {}
        for node in graph.nodes:
            if node.name in graph.inputs:
                negative = node.name in pixels or node.smallest is None or node.smallest < 0
                self._signs[node.name] = Sign.SIGNED if negative else Sign.NONNEGATIVE
            else:
                self._signs[node.name] = self._clipped(node)

    def spec(self, name: str, bits: int) -> TensorSpec:
        """The codes that suit a tensor."""
        sign = self._signs[name]
        if sign is Sign.MOSTLY_POSITIVE:
            return TensorSpec.mostly_positive(bits)
        return TensorSpec.activation(bits, signed=sign is Sign.SIGNED)

    def copy(self, name: str, other: str) -> None:
        """Let ``other`` have the sign of ``name``."""
        self._signs[other] = self._signs[name]

    def _clipped(self, node: Node) -> Sign:
        """The sign of a node behind its activation function."""
        operands = [self._signs[name] for name in node.inputs]
        sign = operator_of(node).sign(node, operands, self._model, self._graph)
        if node.clip is None or sign is Sign.NONNEGATIVE:
            return sign
        low, high = node.clip
        if low >= 0:
            return Sign.NONNEGATIVE
        # a bound below zero says nothing about the other end
        return Sign.SIGNED if math.isfinite(low) or high <= 0 else sign

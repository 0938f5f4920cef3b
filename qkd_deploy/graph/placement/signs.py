"""Which tensors can be negative, decided before any quantizer is there."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from qkd_deploy.bits import TensorSpec
from qkd_deploy.graph.ir import LAYER_KINDS, Graph, Node
from qkd_deploy.graph.ops.contract import MOSTLY_POSITIVE, NONNEGATIVE

_GATES = ("sigmoid", "hard_sigmoid")
_SHARES = (*_GATES, "softmax")
_SIGNED = (*LAYER_KINDS, "batch_norm", "layer_norm", "constant", "python", "tanh")
_SMALL_SLOPE = 0.3


class Signs:
    """The sign of every tensor of a graph.

    Attributes:
        nonnegative: tensors without negative values.
        mostly_positive: tensors that are never far below zero.
    """

    def __init__(self, model: nn.Module, graph: Graph, smallest: Mapping[str, float], *, raw_pixels: bool) -> None:
        """``smallest`` is the least value of every float input; ``raw_pixels``: inputs have a grid of their own."""
        self._model, self._graph, self._smallest, self._raw_pixels = model, graph, smallest, raw_pixels
        self.nonnegative: set[str] = set()
        self.mostly_positive: set[str] = set()
        for node in graph.nodes:
            if self._is_nonnegative(node):
                self.nonnegative.add(node.name)
            elif self._is_mostly_positive(node):
                self.mostly_positive.add(node.name)

    def spec(self, name: str, bits: int) -> TensorSpec:
        """The grid that suits a tensor."""
        if name in self.mostly_positive:
            return TensorSpec.mostly_positive(bits)
        return TensorSpec.activation(bits, signed=name not in self.nonnegative)

    def copy(self, name: str, other: str) -> None:
        """Let ``other`` have the sign of ``name``."""
        for names in (self.nonnegative, self.mostly_positive):
            if name in names:
                names.add(other)

    def _is_nonnegative(self, node: Node) -> bool:
        if node.kind == "input":
            return not self._raw_pixels and self._smallest.get(node.name, -1.0) >= 0
        if (node.clip is not None and node.clip[0] >= 0) or node.kind in _SHARES:
            return True
        if node.kind in _SIGNED:
            return False
        if node.kind in ("float", "table"):
            return self._key(node) in NONNEGATIVE
        return bool(node.inputs) and all(name in self.nonnegative for name in node.inputs)

    def _is_mostly_positive(self, node: Node) -> bool:
        if node.clip is not None and (math.isfinite(node.clip[0]) or node.clip[1] <= 0):
            return False  # bounds below zero say nothing about the other end
        if node.kind in ("float", "table"):
            return self._key(node) in MOSTLY_POSITIVE
        if node.kind == "mul":  # SiLU and HardSwish
            gates = [self._graph.node(name) for name in node.inputs]
            if any(gate.kind in _GATES and gate.inputs[0] in node.inputs for gate in gates):
                return True
        if node.kind == "leaky_relu":
            slope = node.args[1]
            return not isinstance(slope, (int, float)) or 0 <= slope <= _SMALL_SLOPE
        if node.kind in (*_SIGNED, "input", "matmul", "add"):
            return False
        known = self.nonnegative | self.mostly_positive
        return bool(node.inputs) and all(name in known for name in node.inputs)

    def _key(self, node: Node) -> object:
        if isinstance(node.target, str) and not node.method:
            return type(self._model.get_submodule(node.target))
        return node.target

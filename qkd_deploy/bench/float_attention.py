"""Attention in float: exponentials, weighted sums and quotients of integers become a softmax and a product again."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import onnx
from onnx import helper

from qkd_deploy.bench.float_readings import CodeGrid, read_otherwise
from qkd_deploy.export.ops.matmul import RIGHT


class AttentionTwin(ABC):
    """What ``float_twin`` does with the parts of attention."""

    def __init__(self) -> None:
        """Begin with nothing translated."""
        self._constants: dict[str, np.ndarray] = {}
        self._producers: dict[str, onnx.NodeProto] = {}  # by value, in the twin
        self._grids: dict[str, CodeGrid] = {}  # of values that hold codes in the model
        self._below_largest: set[str] = set()  # what exponentials are taken of
        self._sums: dict[str, float] = {}  # of integers, and the step of what is weighed; 0 for the weights' own sum
        self._means: dict[str, float] = {}  # quotients of such sums

    @abstractmethod
    def _now(self, name: str) -> str:
        """The twin's value for one of the model's."""

    @abstractmethod
    def _pass_on(self, node: onnx.NodeProto) -> None:
        """Let the operand stand for the result."""

    @abstractmethod
    def _keep(self, node: onnx.NodeProto) -> None:
        """Take the node as it is."""

    @abstractmethod
    def _append(self, node: onnx.NodeProto) -> None:
        """Add a node to the twin."""

    def _grid(self, node: onnx.NodeProto) -> CodeGrid:
        """The grid that a node reads or makes codes on."""
        told = {entry.key: entry.value for entry in node.metadata_props}
        if told:
            return CodeGrid(float(told["scale"]), int(told["zero_point"]))
        return CodeGrid(float(self._constants[node.input[1]]), int(self._constants[node.input[2]]))

    def _read(self, source: str, output: str, made: CodeGrid, read: CodeGrid) -> None:
        """Add what codes that were made on one grid stand for on another."""
        self._constants[f"{output}.factor"] = np.array(read.scale / made.scale, np.float32)
        self._append(read_otherwise(source, output, made, read, self._producers))

    def _subtract(self, node: onnx.NodeProto) -> None:
        """Codes on their way to signed bytes are the same values."""
        if not node.name.rpartition("/")[0].endswith(RIGHT):
            self._keep(node)
            return
        self._pass_on(node)
        grid, less = self._grids.get(node.input[0]), self._constants[node.input[1]]
        if grid is not None:
            self._grids[node.output[0]] = CodeGrid(grid.scale, grid.zero_point - int(less))

    def _exponential(self, node: onnx.NodeProto) -> None:
        """The numerators of a softmax, which the twin computes whole."""
        if node.input[0] in self._below_largest:
            self._append(helper.make_node("Softmax", [self._now(node.input[0])], node.output, node.name, axis=-1))
        else:
            self._keep(node)

    def _add_up(self, node: onnx.NodeProto) -> None:
        """Sums of values weighed by a softmax, whose weights add up to 1."""
        left, right = node.input[:2]
        fixed, output = self._constants.get(left), node.output[0]
        if right in self._constants and (self._constants[right] == 1).all():
            self._sums[output] = 0.0
            return
        read = self._grid(node)
        made = self._grids.setdefault(right, read)
        operands = [self._now(left), self._now(right)]
        if fixed is not None:
            self._constants[f"{output}.left"] = (fixed / fixed.sum(-1, keepdims=True)).astype(np.float32)
            operands[0] = f"{output}.left"
        if right in self._constants:
            self._constants[f"{output}.right"] = read.floats(self._constants[right])
            operands[1] = f"{output}.right"
        elif not made.equals(read):
            self._read(operands[1], f"{output}.right", made, read)
            operands[1] = f"{output}.right"
        self._append(helper.make_node("MatMul", operands, node.output, node.name))
        self._sums[output] = read.scale

    def _divide(self, node: onnx.NodeProto) -> None:
        if self._sums.get(node.input[1]) == 0.0:
            self._pass_on(node)
            self._means[node.output[0]] = self._sums[node.input[0]]
        else:
            self._keep(node)

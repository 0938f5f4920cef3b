"""The graph under construction, with its tensors as codes.

The *value* of a quantized tensor is its centered codes as floats; that of any other tensor is its floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.errors import UserError
from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.openvino.sketch import LEVELS, Sketch
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.quantized import QuantParams


@dataclass
class Drawing:
    """Everything that the writers of kinds read and add to.

    Attributes:
        frozen: the integer model.
        input_type: "float32", or "uint8" for inputs that are the codes themselves.
        sketch: where constants and nodes go.
        inputs: inputs of the graph, in order.
        values: by tensor, its codes as floats, or its floats.
        grids: by tensor, what its codes stand for; tensors in float have none.
        results: by operation with several results, their values.
        constants: by tensor that does not depend on the input, its value: a ``QuantizedTensor`` or floats.
        unquantized: tensors whose codes no FakeQuantize has made.
    """

    frozen: FrozenModel
    input_type: str = "float32"
    sketch: Sketch = field(default_factory=Sketch)
    inputs: list[ir.Value] = field(default_factory=list)
    values: dict[str, ir.Value] = field(default_factory=dict)
    grids: dict[str, QuantParams] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    unquantized: set[str] = field(default_factory=set)

    def grid(self, node: Node) -> QuantParams:
        """The grid of a node's own quantizer."""
        assert node.quantizer is not None
        return self.frozen.grid(node.quantizer)

    def operands(self, node: Node) -> list[ir.Value]:
        """The values of a node's operands."""
        return [self.values[name] for name in node.inputs if name in self.values]

    def scales(self, node: Node) -> list[float]:
        """What one step of each operand's codes stands for."""
        return [float(self.grids[name].scale) for name in node.inputs]

    def do(self, node: Node, operator: str, operands: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """Append one of the operations that a node is computed in."""
        return self.sketch.do(node.name, operator, operands, **attributes)

    def times(self, node: Node, value: ir.Value, factor: float) -> ir.Value:
        """``value * factor``, the factor in float32."""
        one = float(np.float32(factor)) == 1.0
        return value if one else self.do(node, "Mul", [value, self.sketch.number(factor)])

    def real(self, node: Node, name: str) -> ir.Value:
        """A tensor in real units, for ``node`` to read."""
        value = self.values[name]
        return self.times(node, value, float(self.grids[name].scale)) if name in self.grids else value

    def quantized(self, node: Node, value: ir.Value, *, rounded: bool = False, settled: bool = False) -> ir.Value:
        """Make codes of a value in steps of the node's own grid.

        Args:
            node: has a quantizer.
            value: codes before they are rounded.
            rounded: round by an operation of its own in front, into which the plugin folds no multiplication.
            settled: no code is near a tie, so that the plugin may add and multiply as it likes.
        """
        grid = self.grids[node.name] = self.grid(node)
        rounded = not settled and (rounded or grid.lo < 0)
        if rounded:  # the plugin may add a zero point before it rounds
            value = self.do(node, "Round", [value])
        if self._is_only_summed(node):
            self.unquantized.add(node.name)
            value = value if rounded else self.do(node, "Round", [value])
            return self.do(node, "Clip", [value, self.sketch.number(grid.lo), self.sketch.number(grid.hi)])
        lowest = lowest_of(grid)
        if (grid.lo > lowest and not grid.bounded_below) or grid.hi < lowest + LEVELS - 1:
            value = self.do(node, "Clip", [value, self.sketch.number(grid.lo), self.sketch.number(grid.hi)])
        return self.sketch.fake_quantize(node.name, value, lowest)

    def _is_only_summed(self, node: Node) -> bool:
        """Say if sums alone read a layer: the plugin leaves out the rounding of a FakeQuantize between both."""
        readers = self.frozen.graph.users(node.name)
        return node.kind in ("conv", "linear") and bool(readers) and all(reader.kind == "add" for reader in readers)

    def float_view(self, node: Node) -> EmitContext:
        """What the emitters of float operations take, with this node's operands in real units."""
        values = {name: self.real(node, name) for name in node.inputs if name in self.values}
        return EmitContext(
            self.frozen,
            "int8",
            self.input_type,
            builder=self.sketch,
            values=values,
            results=self.results,
            constants=self.constants,
        )


def lowest_of(grid: QuantParams) -> int:
    """The least of the 256 integers that codes of a grid are among: unsigned or signed bytes, or moved ones."""
    if grid.lo >= 0:
        return 0
    return -LEVELS // 2 if grid.hi < LEVELS // 2 else -grid.zero_point


def without_form(node: Node, why: str = "") -> UserError:
    """The error about a node that OpenVINO does not compute exactly; ``why`` begins with a colon."""
    return UserError(
        f"{node.name} ({operator_of(node).docs}) has no form for OpenVINO{why}; choose another target, or replace the "
        "operation"
    )

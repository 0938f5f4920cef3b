"""The graph under construction for accelerators: every operator stands between codes and codes.

From such units their providers read what is computed in integers; none takes an operator on uint8 itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext, NamedParams
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantParams

Steps = tuple[ir.Value, ir.Value]
"""Scale and zero point."""
_LARGEST = 255
"""Code of a byte."""


@dataclass
class PairedContext(EmitContext):
    """What emitters read and add to, with pairs of QuantizeLinear and DequantizeLinear behind every operator.

    Attributes:
        wide: by tensor with codes of 16 bits, their scale and zero point.
    """

    wide: dict[str, Steps] = field(default_factory=dict)

    def steps_of(self, tensor: str) -> Steps | None:
        """Scale and zero point of a tensor's codes; None where it stays in float."""
        return self.scale_and_zero_point(*self.grids[tensor]) if tensor in self.grids else self.wide.get(tensor)

    def pair(self, name: str, value: ir.Value, steps: Steps | None) -> ir.Value:
        """Put a value on a grid and read it again; as it is where there is none."""
        if steps is None:
            return value
        codes = self.builder.add("QuantizeLinear", [value, *steps], f"{name}.quantized", node=name)
        return self.builder.add("DequantizeLinear", [codes, *steps], f"{name}.dequantized", node=name)

    def on_own_grid(self, node: Node, value: ir.Value) -> ir.Value:
        """Make the codes of a node with a quantizer; returns the dequantized value."""
        self.grids[node.name] = NamedParams(node.name, self.params(node))
        return self.dequantize(node, self.params(node), self.quantize(node, self.params(node), value))

    def quantize(
        self,
        node: Node,
        params: QuantParams,
        value: ir.Value,
        *,
        made: QuantParams | None = None,
        scale: ir.Value | None = None,
    ) -> ir.Value:
        """Append QuantizeLinear and, where codes do not take all of a byte, Min or Max: the HTP drops Clips."""
        name, steps = node.name, self.scale_and_zero_point(node.name, params)
        codes = self.builder.add("QuantizeLinear", [value, *steps], f"{name}.quantized", node=name)
        read = self.builder.add("DequantizeLinear", [codes, *steps], f"{name}.read", node=name)
        last = self.cut(name, read, steps, params, (params.lo, params.hi)).producer()
        assert last is not None and last.inputs[0] is not None
        return last.inputs[0]

    def cut(self, name: str, value: ir.Value, steps: Steps, params: QuantParams, ends: tuple[int, int]) -> ir.Value:
        """Cut a tensor at two centered codes, where a byte does not end there; the HTP drops a Clip in places."""
        b, zero = self.builder, params.zero_point
        lowest = params.lo if params.bounded_below else -zero
        needed = {"Max": ends[0] > lowest, "Min": ends[1] + zero < _LARGEST}
        for (operator, is_needed), end in zip(needed.items(), ends, strict=True):
            if is_needed:
                key = f"{name}.{operator.lower()}"
                limit = [b.scalar(f"{key}.code", end + zero, np.uint8), *steps]
                operands = [value, b.add("DequantizeLinear", limit, f"{key}.limit", node=key)]
                value = self.pair(key, b.add(operator, operands, f"{key}.float", node=name), steps)
        return value

    def move(
        self, node: Node, operator: str, rest: Sequence[ir.Value | None], *, zero_last: bool = False, **attributes: Any
    ) -> ir.Value:
        """Append an operator that only moves elements, on floats; ``moved`` puts them on their grid again."""
        operands = [self.values[node.inputs[0]], *rest]
        return self.builder.add(operator, operands, f"{node.name}.float", node=node.name, attributes=attributes)

    def moved(self, node: Node, value: ir.Value) -> ir.Value:
        """The result of an operator that only moved elements, on the grid that they are on."""
        operand = node.inputs[0] if node.inputs else ""
        if operand in self.wide:
            self.wide[node.name] = self.wide[operand]
        return self.pair(f"{node.name}.moved", value, self.steps_of(operand))

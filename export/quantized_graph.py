"""The graph under construction, with its quantizers: which tensor is which value, and on which grid its codes are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.export.metadata import TensorRecord
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import before_key
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.quantized import QuantParams


class QuantizedGraph:
    """What all parts of ``emit`` share."""

    def __init__(self, frozen: FrozenModel) -> None:
        """Begin an empty graph for a frozen model."""
        self.frozen = frozen
        self.builder = GraphBuilder()
        self.inputs: list[ir.Value] = []
        self.values: dict[str, ir.Value] = {}  # tensor name -> its float (dequantized) value
        self.grids: dict[str, tuple[Node, QuantParams]] = {}  # tensor name -> whose grid its codes are on
        self.tensors: list[TensorRecord] = []

    def _simple(self, node: Node, operator: str, **attributes: Any) -> ir.Value:
        operands = [self.values[name] for name in node.inputs]
        return self.builder.add(operator, operands, f"{node.name}.float", node=node.name, attributes=attributes)

    def _quantize(self, node: Node, grid: QuantParams, value: ir.Value, step: ir.Value | None = None) -> ir.Value:
        """Q -> [Clip] -> DQ behind a value, with a ``step`` for other units; a uint8 input already is the codes."""
        name, b = node.name, self.builder
        made = self.frozen.grid(before_key(node.name)) if operator_of(node).relabelling is not None else None
        scale, zero_point = self._grid_constants(node, made or grid, "made_" if made else "")
        scale = scale if step is None else step
        lo, hi = grid.lo + grid.zero_point, grid.hi + grid.zero_point
        if value.name == name and value.type == ir.TensorType(ir.DataType.UINT8):
            codes = value
        else:
            codes = b.add("QuantizeLinear", [value, scale, zero_point], f"{name}.quantized", node=name)
            if hi != 255 or not (lo == 0 or grid.bounded_below):  # else the saturation of uint8 clips
                limits = [b.scalar(f"{name}.lo", lo, np.uint8), b.scalar(f"{name}.hi", hi, np.uint8)]
                codes = b.add("Clip", [codes, *limits], f"{name}.codes", node=name)
        return self._recorded(node, grid, self._back_to_tokens(node, codes))

    def _back_to_tokens(self, node: Node, codes: ir.Value) -> ir.Value:
        """Codes in the shape of the node's tensor, where a layer was computed in another; see ``Tokens``."""
        return codes

    def _recorded(self, node: Node, grid: QuantParams, codes: ir.Value) -> ir.Value:
        """The real values of codes, which get a row of the table of tensors."""
        lo, hi = grid.lo + grid.zero_point, grid.hi + grid.zero_point
        name, scale = node.name, float(grid.scale)
        self.tensors.append(TensorRecord(name, str(codes.name), node.module, grid.bits, scale, grid.zero_point, lo, hi))
        return self._dequantize(node, grid, codes)

    def _dequantize(self, node: Node, grid: QuantParams, codes: ir.Value) -> ir.Value:
        scale, zero_point = self._grid_constants(node, grid)
        return self.builder.add(
            "DequantizeLinear", [codes, scale, zero_point], f"{node.name}.dequantized", node=node.name
        )

    def _grid_constants(self, node: Node, grid: QuantParams, prefix: str = "") -> tuple[ir.Value, ir.Value]:
        b = self.builder
        scale = b.scalar(f"{node.name}.{prefix}scale", float(grid.scale), np.float32)
        return scale, b.scalar(f"{node.name}.{prefix}zero_point", grid.zero_point, np.uint8)

    def _codes(self, name: str) -> ir.Value | None:
        """The codes of a tensor; None where it stays in float."""
        if name not in self.grids:
            return None
        value = self.values[name]
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            return producer.inputs[0]
        return self._codes_again(name, value)

    def _codes_again(self, name: str, value: ir.Value) -> ir.Value:
        """The codes of a value that was dequantized before it moved.

        All its readers then read these: ONNX Runtime runs what reads floats in float, where somebody else reads codes.
        """
        b, readers, constants = self.builder, list(value.uses()), self._grid_constants(*self.grids[name])
        codes = b.add("QuantizeLinear", [value, *constants], f"{name}.codes_again", node=name)
        again = b.add("DequantizeLinear", [codes, *constants], f"{name}.dequantized_again", node=name)
        for reader in readers:
            reader.node.replace_input_with(reader.idx, again)
        for other in [key for key, known in self.values.items() if known is value]:
            self.values[other] = again
        producer, made = value.producer(), b.nodes[-2:]
        assert producer is not None
        at = b.nodes.index(producer) + 1
        b.nodes[at:] = [*made, *b.nodes[at:-2]]
        return codes

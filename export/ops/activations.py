"""Functions of quantized tensors in ONNX: tables, relabelled codes, rectifiers, normalised rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.ops.layer_norm import emit_exact_norm, emit_float_norm
from qkd_deploy.export.quantized_graph import QuantizedGraph
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.activations import lookup_of, slope_of
from qkd_deploy.graph.quantized import LookupParams

_FEW_CHANNELS = 192
"""Longer runs multiply as fast without being repeated."""


def _is_small_gate(gate: tuple[int, ...], product: tuple[int, ...]) -> bool:
    """Whether an operand has one value for each of a few channels of images wider than a pixel."""
    small = len(gate) == len(product) == 4 and gate[2:] == (1, 1) and gate[1] <= _FEW_CHANNELS
    return small and product[3] > 1


class Functions(QuantizedGraph):
    """Handlers of activation functions and LayerNorm."""

    def _tanh(self, node: Node) -> ir.Value:
        """Codes of ``sigmoid(2 * x)``, which are read as those of tanh."""
        operand, b = node.inputs[0], self.builder
        codes = self._codes(operand)
        if codes is None or node.quantizer is None:
            return self._simple(node, "Tanh")
        _, grid = self.grids[operand]
        scale, zero_point = self._grid_constants(node, grid.times(2.0), "doubled_")
        doubled = b.add("DequantizeLinear", [codes, scale, zero_point], f"{node.name}.doubled", node=node.name)
        return b.add("Sigmoid", [doubled], f"{node.name}.float", node=node.name)

    def _hard_sigmoid(self, node: Node) -> ir.Value:
        """Codes of ``x`` on another grid, which are read as those of the function."""
        if node.quantizer is None:
            return self._simple(node, "HardSigmoid", alpha=1 / 6, beta=0.5)
        return self._requantize(node)

    def _table(self, node: Node) -> ir.Value:
        """Codes looked up by codes; GatherElements on one dimension is ten times as fast as Gather."""
        grid, b, name = self.frozen.grid(str(node.quantizer)), self.builder, node.name
        assert isinstance(grid, LookupParams)
        self.grids[name] = (node, grid)
        lookup = lookup_of(self.frozen.network, node)
        assert lookup is not None
        table = b.constant(f"{name}.{lookup.name}.table", grid.table.cpu().numpy())
        flat = b.constant(f"{name}.flat", np.array([-1], np.int64))
        back = b.constant(f"{name}.shape", np.array(node.open_shape, np.int64))
        line = b.add("Reshape", [self._codes(node.inputs[0]), flat], f"{name}.line", node=f"{name}.flat")
        index = b.add("Cast", [line], f"{name}.index", node=name, attributes={"to": ir.DataType.INT32})
        found = b.add("GatherElements", [table, index], f"{name}.found", node=name, attributes={"axis": 0})
        codes = b.add("Reshape", [found, back], f"{name}.codes", node=f"{name}.back")
        return self._recorded(node, grid, codes)

    def _layer_norm(self, node: Node) -> ir.Value:
        codes, (_, weight, bias) = self._codes(node.inputs[0]), node.args
        gain, offset = (None if ref is None else self.values[ref.name] for ref in (weight, bias))
        if codes is None or node.quantizer is None:
            return emit_float_norm(self.builder, node, self.values[node.inputs[0]], gain, offset)
        return emit_exact_norm(self.builder, node, self.grids[node.inputs[0]][1], codes, gain, offset)

    def _mul(self, node: Node) -> ir.Value:
        """A product; gates of few channels are repeated along the rows first.

        The runtime keeps channels last and multiplies run by run, where a run is what one gate holds.
        """
        shapes = [self.frozen.graph.node(name).shape or () for name in node.inputs]
        operands = [
            self._repeated(node, name) if name in self.grids and _is_small_gate(shape, node.shape or ()) else value
            for name, shape, value in zip(node.inputs, shapes, map(self.values.__getitem__, node.inputs), strict=True)
        ]
        return self.builder.add("Mul", operands, f"{node.name}.float", node=node.name)

    def _repeated(self, node: Node, gate: str) -> ir.Value:
        name, b = node.name, self.builder
        repeats = b.constant(f"{name}.repeats", np.array([1, 1, 1, (node.shape or ())[3]], np.int64))
        wide = b.add("Tile", [self._codes(gate), repeats], f"{name}.repeated", node=name)
        constants = self._grid_constants(*self.grids[gate])
        return b.add("DequantizeLinear", [wide, *constants], f"{name}.repeated.dequantized", node=name)

    def _leaky_relu(self, node: Node) -> ir.Value:
        slope = slope_of(self.frozen.network, self.frozen.graph, node)
        operand = self.values[node.inputs[0]]
        return self.builder.add(
            "LeakyRelu", [operand], f"{node.name}.float", node=node.name, attributes={"alpha": slope}
        )

    def _requantize(self, node: Node) -> ir.Value:
        """Codes on another grid: an integer addition of zero, which unlike Q behind DQ is never merged away."""
        operand, b = node.inputs[0], self.builder
        if operand not in self.grids:
            return self.values[operand]
        holder, grid = self.grids[operand]
        scale, zero_point = self._grid_constants(holder, grid)
        code = b.scalar(f"{node.name}.zero", grid.zero_point, np.uint8)
        zero = b.add(
            "DequantizeLinear", [code, scale, zero_point], f"{node.name}.zero.dequantized", node=f"{node.name}.zero"
        )
        return b.add("Add", [self.values[operand], zero], f"{node.name}.float", node=node.name)

"""Products of two activations in ONNX, and means whose weights are exponentials.

The right operand of a product becomes signed bytes: kernels of x86 CPUs with VNNI are then half again as fast. Where a
pair of products could leave 16 bits, in which CPUs without VNNI add it, both operands stay unsigned, exact everywhere.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.quantized_graph import QuantizedGraph
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import meets_signed

RIGHT = ".right"
"""End of the names of nodes that make signed bytes of codes."""


class Products(QuantizedGraph):
    """Handlers of products, exponentials and weighted means."""

    def _matmul(self, node: Node) -> ir.Value:
        left, right = node.inputs[0], node.inputs[-1]
        grids = [self.grids[name][1] for name in (left, right) if name in self.grids]
        if len(grids) < 2 or not meets_signed(*grids):
            return self._simple(node, "MatMul")
        scale, _ = self._grid_constants(*self.grids[right])
        codes, zero_point = self._signed(node, right)
        factor = self.builder.add(
            "DequantizeLinear", [codes, scale, zero_point], f"{node.name}.right", node=f"{node.name}.right"
        )
        return self.builder.add("MatMul", [self.values[left], factor], f"{node.name}.float", node=node.name)

    def _signed(self, node: Node, name: str) -> tuple[ir.Value, ir.Value]:
        """A tensor's codes as signed bytes, and their zero point."""
        b, (_, grid) = self.builder, self.grids[name]
        zero_point = b.scalar(f"{node.name}.right.zero_point", -grid.middle, np.int8)
        codes = self._codes(name)
        assert codes is not None
        if codes.const_value is not None:
            signed = codes.const_value.numpy().astype(np.int16) - (grid.zero_point + grid.middle)
            return b.constant(f"{node.name}.right.codes", signed.astype(np.int8)), zero_point
        name = f"{node.name}{RIGHT}"
        do = partial(b.step, name)
        # a BitwiseXor takes twice as long as these three together
        wide = do("Cast", [codes], "wide", to=ir.DataType.INT32)
        less = do("Sub", [wide, b.scalar(f"{name}.middle", grid.zero_point + grid.middle, np.int32)], "moved")
        return do("Cast", [less], "codes", to=ir.DataType.INT8), zero_point

    def _exponential(self, node: Node) -> ir.Value:
        """Rows are dequantized as if their largest codes were zero, and exponentials put on the agreed grid."""
        name, b, operand = node.name, self.builder, node.inputs[0]
        (_, source), grid = self.grids[operand], self.frozen.grid(str(node.quantizer))
        shape, do = self.frozen.graph.node(operand).shape or (), partial(b.step, name)

        def sizes(suffix: str, *numbers: int) -> ir.Value:
            return b.constant(f"{name}.{suffix}", np.array(numbers, np.int64))

        codes = self._codes(operand)
        assert codes is not None
        rows = do("Reshape", [codes, sizes("row_shape", -1, shape[-1])], "rows")
        largest = do("ReduceMax", [rows, sizes("axes", 1)], "largest", keepdims=0)
        step = ir.tensor(np.array([float(source.scale)], np.float32))
        steps = do("ConstantOfShape", [do("Shape", [largest], "count")], "steps", value=step)
        reads, by_rows = (float(source.scale), source.zero_point), {"axis": 0}
        below = b.add(
            "DequantizeLinear", [rows, steps, largest], f"{name}.below", node=name, attributes=by_rows, reads=reads
        )
        quantized = do("QuantizeLinear", [do("Exp", [below], "float"), *self._grid_constants(node, grid)], "row_codes")
        made = do("Reshape", [quantized, sizes("shape", *node.open_shape)], "codes")
        self.grids[name] = (node, grid)
        return self._recorded(node, grid, made)

    def _weighted_mean(self, node: Node) -> ir.Value:
        """Sums of integers divided by sums of integers, rounded once."""
        name, b = node.name, self.builder
        weights, values, _ = node.inputs
        (_, left), (_, right), grid = self.grids[weights], self.grids[values], self.frozen.grid(str(node.quantizer))
        codes, zero = self._codes(weights), b.scalar(f"{name}.left.zero_point", left.zero_point, np.uint8)
        assert codes is not None

        def sums(operand: ir.Value, zero_point: ir.Value, suffix: str, reads: tuple[float, int]) -> ir.Value:
            made = b.add(
                "MatMulInteger", [codes, operand, zero, zero_point], f"{name}.{suffix}_codes", node=name, reads=reads
            )
            to = {"to": ir.DataType.FLOAT}
            return b.add("Cast", [made], f"{name}.{suffix}", node=name, attributes=to)

        length = (self.frozen.graph.node(weights).shape or ())[-1]
        ones = b.constant(f"{name}.ones", np.ones((length, 1), np.int8))
        total = sums(ones, b.scalar(f"{name}.ones.zero_point", 0, np.int8), "total", (1.0, 0))
        if meets_signed(left, right):
            factor, middle = self._signed(node, values), -right.middle
        else:
            unsigned, middle = self._codes(values), right.zero_point
            assert unsigned is not None
            factor = unsigned, b.scalar(f"{name}.right.zero_point", right.zero_point, np.uint8)
        made = sums(*factor, "sums", (float(right.scale), middle))
        mean = b.add("Div", [made, total], f"{name}.float", node=name)
        step = b.scalar(f"{name}.step", float(grid.scale / right.scale), np.float32)
        self.grids[name] = (node, grid)
        return self._quantize(node, grid, mean, step)

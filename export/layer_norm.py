"""LayerNorm in ONNX: from codes, in single correctly rounded operations, so that no CPU computes other bits.

The operator ``LayerNormalization`` sums in an order of the CPU's own. Sums of small integers have no such freedom. The
operations and their order are those of ``graph.exact_rows.layer_norm``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.graph.codes import Grid
from qkd_deploy.graph.exact_rows import eps_in_steps, row_center
from qkd_deploy.graph.ir import Node


def emit_exact_norm(
    builder: GraphBuilder, node: Node, grid: Grid, codes: ir.Value, weight: ir.Value | None, bias: ir.Value | None
) -> ir.Value:
    """Normalise the last dimension of ``codes``, which are on ``grid``; returns floats before their quantizer."""
    name, length = node.name, (node.shape or ())[-1]
    eps = eps_in_steps(node.kwargs["eps"], float(grid.scale))

    def number(suffix: str, value: float) -> ir.Value:
        return builder.scalar(f"{name}.{suffix}", value, np.float32)

    def do(operator: str, operands: list[ir.Value], suffix: str) -> ir.Value:
        return builder.add(operator, operands, f"{name}.{suffix}", node=name)

    def cast(value: ir.Value, kind: ir.DataType, suffix: str) -> ir.Value:
        return builder.add("Cast", [value], f"{name}.{suffix}", node=name, attributes={"to": kind})

    axes = builder.constant(f"{name}.axes", np.array([-1], np.int64))
    center = builder.scalar(f"{name}.center", row_center(grid.zero_point, grid.lo, grid.hi, length), np.uint8)
    n, one = number("length", length), number("one", 1)
    c = do("DequantizeLinear", [codes, one, center], "centered")
    total = do("ReduceSum", [c, axes], "total")
    squares = do("ReduceSum", [do("Mul", [c, c], "square"), axes], "squares")
    mean = do("Div", [total, n], "mean")
    spread = do("Sub", [squares, do("Mul", [total, mean], "mean_square")], "spread")
    variance = do("Relu", [do("Div", [spread, n], "variance")], "positive")
    # the runtime's square root of float32 is an approximation, that of float64 is not
    wide = cast(do("Add", [variance, number("eps", eps)], "stabilised"), ir.DataType.DOUBLE, "wide")
    deviation = cast(do("Sqrt", [wide], "root"), ir.DataType.FLOAT, "deviation")
    y = do("Div", [do("Sub", [c, mean], "moved"), deviation], "normalised")
    if weight is not None:
        y = do("Mul", [y, weight], "scaled")
    return y if bias is None else do("Add", [y, bias], "float")


def emit_float_norm(
    builder: GraphBuilder, node: Node, operand: ir.Value, weight: ir.Value | None, bias: ir.Value | None
) -> ir.Value:
    """The ordinary operator, for tensors that are not quantized."""
    length = (node.shape or ())[-1]
    gain = weight or builder.constant(f"{node.name}.gain", np.ones(length, np.float32))
    operands = [operand, gain, *([] if bias is None else [bias])]
    attributes = {"axis": -1, "epsilon": node.kwargs["eps"]}
    return builder.add("LayerNormalization", operands, f"{node.name}.float", node=node.name, attributes=attributes)

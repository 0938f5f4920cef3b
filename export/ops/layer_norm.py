"""LayerNorm in ONNX: from codes, in single correctly rounded operations, so that no CPU computes other bits.

The operator ``LayerNormalization`` sums in an order of the CPU's own. Sums of small integers have no such freedom. The
operations and their order are those of ``graph.exact_rows.layer_norm``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.graph.exact.rows import eps_in_steps, row_center
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantParams


def emit_exact_norm(
    builder: GraphBuilder,
    node: Node,
    grid: QuantParams,
    codes: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
) -> ir.Value:
    """Normalise the last dimension of ``codes``, which are on ``grid``; returns floats before their quantizer."""
    name, length = node.name, (node.shape or ())[-1]
    single, double = ir.DataType.FLOAT, ir.DataType.DOUBLE

    def number(suffix: str, value: float, kind: type[np.floating[Any]] = np.float64) -> ir.Value:
        return builder.scalar(f"{name}.{suffix}", value, kind)

    do = partial(builder.step, name)
    axes = builder.constant(f"{name}.axes", np.array([-1], np.int64))
    center = row_center(grid.zero_point + grid.hi, length)
    # Cast instead of DequantizeLinear, which the runtime would compute anew for each of its readers
    c = do("Cast", [codes], "integers", to=single)
    if center:
        c = do("Sub", [c, number("center", center, np.float32)], "centered")
    total = do("ReduceSum", [c, axes], "total")
    squares = do("ReduceSum", [do("Mul", [c, c], "square"), axes], "squares")  # ReduceSumSquare takes longer than both
    mean = do("Div", [total, number("length", length, np.float32)], "mean")
    # On the few numbers of the rows, float64 costs nothing, and its square root is rounded correctly.
    wide = do("Cast", [total], "wide_total", to=double)
    times = do("Mul", [do("Cast", [squares], "wide_squares", to=double), number("count", length)], "times")
    spread = do("Sub", [times, do("Mul", [wide, wide], "total_squared")], "spread")
    variance = do("Div", [spread, number("count_squared", length**2)], "variance")
    stabilised = do("Add", [variance, number("eps", eps_in_steps(node.kwargs["eps"], float(grid.scale)))], "stabilised")
    deviation = do("Cast", [do("Sqrt", [stabilised], "root")], "deviation", to=single)
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

"""LayerNorm and softmax in ONNX, in forms of which no CPU computes other codes.

The operator ``LayerNormalization`` sums in an order of the CPU's own. Here LayerNorm is written in single, correctly
rounded operations on codes, whose sums have no such freedom, for they are of small integers (decision 11). The
operations and their order are those of ``graph.exact.rows.layer_norm``.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import torch

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter, plain
from qkd_deploy.export.ops.float_ops import emit_float_op
from qkd_deploy.graph.exact.rows import ALL_ZERO, FLOAT32_ROW, eps_in_steps, halvings, row_center, sum_step, whole_steps
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantParams, real


def emit_layer_norm(ctx: EmitContext, node: Node) -> ir.Value:
    """Normalise the last dimension: exactly where operand and result have codes, else by the ordinary operator."""
    operand, (_, weight, bias) = node.inputs[0], node.args
    codes = ctx.codes(operand)
    gain, offset = (None if ref is None else ctx.values[ref.name] for ref in (weight, bias))
    if codes is None or node.quantizer is None:
        return _float_norm(ctx, node, gain, offset)
    y = _normalised(ctx, node, ctx.grids[operand].params, codes)
    do = partial(ctx.builder.step, node.name)
    if gain is not None:
        y = do("Mul", [y, gain], "scaled")
    return y if offset is None else do("Add", [y, offset], "float")


def _normalised(ctx: EmitContext, node: Node, params: QuantParams, codes: ir.Value) -> ir.Value:
    """``(c - mean) / deviation`` of every row, from codes: the scale cancels, but for eps, which is divided by it."""
    name, b, length = node.name, ctx.builder, node.sizes[-1]

    def number(suffix: str, value: float) -> ir.Value:
        return b.scalar(f"{name}.{suffix}", value, np.float32)

    do, axes = partial(b.step, name), b.integers(f"{name}.axes", [-1])
    center = row_center(params.zero_point + params.hi, length)
    # Cast instead of DequantizeLinear, which the runtime would compute anew for each of its readers
    c = do("Cast", [codes], "integers", to=ir.DataType.FLOAT)
    if center:  # keeps sums within 2^24, so that float32 holds them exactly in any order
        c = do("Sub", [c, number("center", center)], "centered")
    total = do("ReduceSum", [c, axes], "total")
    square = do("Mul", [c, c], "square")  # ReduceSumSquare takes longer than Mul and ReduceSum
    if length > FLOAT32_ROW:
        square = do("Cast", [square], "wide_square", to=ir.DataType.DOUBLE)
    squares = do("ReduceSum", [square, axes], "squares")
    mean = do("Div", [total, number("length", length)], "mean")  # times 1 / length would be made a Div
    deviation = _deviation(ctx, node, total, squares, eps_in_steps(node.kwargs["eps"], float(params.scale)))
    return do("Div", [do("Sub", [c, mean], "moved"), deviation], "normalised")


def _deviation(ctx: EmitContext, node: Node, total: ir.Value, squares: ir.Value, eps: float) -> ir.Value:
    """The deviation of every row from its sums, ``sqrt((n * squares - total^2) / n^2 + eps)``, in float64.

    On the few numbers of the rows, float64 costs nothing, and its square root is rounded correctly; the runtime's
    square root of float32 is an approximation.
    """
    length, do = node.sizes[-1], partial(ctx.builder.step, node.name)

    def number(suffix: str, value: float) -> ir.Value:
        return ctx.builder.scalar(f"{node.name}.{suffix}", value, np.float64)

    wide = do("Cast", [total], "wide_total", to=ir.DataType.DOUBLE)
    if length <= FLOAT32_ROW:
        squares = do("Cast", [squares], "wide_squares", to=ir.DataType.DOUBLE)
    times = do("Mul", [squares, number("count", length)], "times")
    spread = do("Sub", [times, do("Mul", [wide, wide], "total_squared")], "spread")
    variance = do("Div", [spread, number("count_squared", length**2)], "variance")
    stabilised = do("Add", [variance, number("eps", eps)], "stabilised")
    return do("Cast", [do("Sqrt", [stabilised], "root")], "deviation", to=ir.DataType.FLOAT)


def _float_norm(ctx: EmitContext, node: Node, gain: ir.Value | None, offset: ir.Value | None) -> ir.Value:
    """``LayerNormalization``, for tensors that are not quantized; ONNX requires a gain."""
    gain = gain or ctx.builder.constant(f"{node.name}.gain", np.ones(node.sizes[-1], np.float32))
    operands = [ctx.values[node.inputs[0]], gain, *([] if offset is None else [offset])]
    attributes = {"axis": -1, "epsilon": node.kwargs["eps"]}
    return ctx.builder.add("LayerNormalization", operands, f"{node.name}.float", node=node.name, attributes=attributes)


def emit_exponential(ctx: EmitContext, node: Node) -> ir.Value:
    """Exponentials of rows less their largest elements, the numerators of a softmax (decision 15).

    Without offsets, rows are dequantized as if their largest codes were zero: DequantizeLinear by rows takes these as
    zero points. So ``Exp`` sees at most 256 different operands, and its codes are on a scale on which every CPU agrees.
    """
    if len(node.inputs) > 1:
        return _exponential_of_sums(ctx, node)
    name, b, operand = node.name, ctx.builder, node.inputs[0]
    source, params, shape = ctx.grids[operand].params, ctx.params(node), ctx.shape(operand)
    do = partial(b.step, name)
    codes = ctx.known_codes(operand)
    rows = do("Reshape", [codes, b.integers(f"{name}.row_shape", [-1, shape[-1]])], "rows")
    largest = do("ReduceMax", [rows, b.integers(f"{name}.axes", [1])], "largest", keepdims=0)
    scale = ir.tensor(np.array([float(source.scale)], np.float32))
    scales = do("ConstantOfShape", [do("Shape", [largest], "count")], "steps", value=scale)
    below = b.add(
        "DequantizeLinear",
        [rows, scales, largest],
        f"{name}.below",
        node=name,
        attributes={"axis": 0},
        reads=(float(source.scale), source.zero_point),
    )
    exponentials = do("Exp", [below], "float")
    quantized = do("QuantizeLinear", [exponentials, *ctx.scale_and_zero_point(name, params)], "row_codes")
    made = do("Reshape", [quantized, b.integers(f"{name}.shape", node.open_shape)], "codes")
    return ctx.record(node, params, made)


def _exponential_of_sums(ctx: EmitContext, node: Node) -> ir.Value:
    """Add position biases and masks to the codes, as integers (decision 40): no sum is rounded or leaves its range."""
    params, do, b = ctx.params(node), partial(ctx.builder.step, node.name), ctx.builder
    source = ctx.grids[node.inputs[0]].params
    step = sum_step(source.scale)
    sums = do("Add", [_halved(ctx, node, source), _offsets(ctx, node, step)], "sums")
    largest = do("ReduceMax", [sums, b.integers(f"{node.name}.axes", [-1])], "largest", keepdims=1)
    scale, zero = b.scalar(f"{node.name}.step", float(step), np.float32), b.scalar(f"{node.name}.zero", 0, np.int32)
    below = do("DequantizeLinear", [do("Sub", [sums, largest], "less"), scale, zero], "below")
    made = do("QuantizeLinear", [do("Exp", [below], "float"), *ctx.scale_and_zero_point(node.name, params)], "codes")
    return ctx.record(node, params, made)


def _halved(ctx: EmitContext, node: Node, source: QuantParams) -> ir.Value:
    """The codes of scores in int32, up to a number that is the same for all; very fine steps are halved first."""
    do = partial(ctx.builder.step, node.name)
    wide = do("Cast", [ctx.known_codes(node.inputs[0])], "wide", to=ir.DataType.INT32)
    divisor = 2 ** min(int(halvings(source.scale)), ALL_ZERO)
    if divisor == 1:
        return wide
    up = 256 * divisor + divisor // 2 - source.zero_point  # integers are divided towards zero: all are made positive
    raised = do("Add", [wide, ctx.builder.scalar(f"{node.name}.up", up, np.int32)], "raised")
    return do("Div", [raised, ctx.builder.scalar(f"{node.name}.divisor", divisor, np.int32)], "halved")


def _offsets(ctx: EmitContext, node: Node, step: torch.Tensor) -> ir.Value:
    """The sum of what is added to the codes, which the runtime computes once: apart, biases and masks are small."""
    total = None
    for number, name in enumerate(node.inputs[1:]):
        steps = whole_steps(real(ctx.constants[name]), step).to(torch.int32).cpu().numpy()
        offset = ctx.builder.constant(f"{node.name}.offset_{number}", steps)
        total = offset if total is None else ctx.builder.step(node.name, "Add", [total, offset], f"offsets_{number}")
    assert total is not None
    return total


def emit_expectation(ctx: EmitContext, node: Node) -> ir.Value:
    """Multiply shares by numbers and add up along the dimension of the shares, in float."""
    operands = [ctx.values[name] for name in node.inputs]
    weighted = ctx.builder.step(node.name, "Mul", operands, "weighted")
    axes = ctx.builder.integers(f"{node.name}.axes", [node.kwargs.get("dim", 1)])
    return ctx.builder.step(node.name, "ReduceSum", [weighted, axes], "float", keepdims=1)


EMITTERS = {
    "batch_norm": Emitter(emit_float_op),
    "softmax": plain("Softmax", axis=-1),
    "exponential": Emitter(emit_exponential, quantizes=True),
    "expectation": Emitter(emit_expectation),
    "layer_norm": Emitter(emit_layer_norm),
}

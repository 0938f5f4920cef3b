"""Products of two activations in ONNX, and means whose weights are exponentials (decision 15).

The right operand of a product becomes signed bytes: kernels of x86 CPUs with VNNI are then half again as fast. Where a
pair of products could leave 16 bits, in which CPUs without VNNI add it, both operands stay unsigned, exact everywhere.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import meets_signed


def emit_matmul(ctx: EmitContext, node: Node) -> ir.Value:
    """Multiply two tensors as matrices; with signed bytes on the right where both have codes that allow it."""
    left, right = node.inputs[0], node.inputs[-1]
    grids = [ctx.grids[name].params for name in (left, right) if name in ctx.grids]
    if len(grids) < 2 or not meets_signed(*grids):
        return ctx.apply(node, "MatMul")
    scale, _ = ctx.scale_and_zero_point(*ctx.grids[right])
    codes, zero_point = _signed(ctx, node, right)
    name = f"{node.name}.right"
    factor = ctx.builder.add("DequantizeLinear", [codes, scale, zero_point], name, node=name)
    return ctx.builder.add("MatMul", [ctx.values[left], factor], f"{node.name}.float", node=node.name)


def _signed(ctx: EmitContext, node: Node, operand: str) -> tuple[ir.Value, ir.Value]:
    """An operand's codes as signed bytes around the middle of their range, and their zero point."""
    b, params, name = ctx.builder, ctx.grids[operand].params, f"{node.name}.right"
    middle = params.zero_point + params.middle
    zero_point = b.scalar(f"{name}.zero_point", -params.middle, np.int8)
    codes = ctx.known_codes(operand)
    if codes.const_value is not None:
        signed = codes.const_value.numpy().astype(np.int16) - middle
        return b.constant(f"{name}.codes", signed.astype(np.int8)), zero_point
    do = partial(b.step, name)
    # a BitwiseXor takes twice as long as these three together
    wide = do("Cast", [codes], "wide", to=ir.DataType.INT32)
    less = do("Sub", [wide, b.scalar(f"{name}.middle", middle, np.int32)], "moved")
    return do("Cast", [less], "codes", to=ir.DataType.INT8), zero_point


def emit_weighted_mean(ctx: EmitContext, node: Node) -> ir.Value:
    """Sums of weighted codes over sums of weights: both are integers, and their quotient is rounded once.

    MatMulInteger has no scales; the quotient is in units of the values' scale, so that its quantizer divides by the
    ratio of both scales.
    """
    name, b = node.name, ctx.builder
    weights, values, _ = node.inputs
    left, right, params = ctx.grids[weights].params, ctx.grids[values].params, ctx.params(node)
    codes, zero = ctx.known_codes(weights), b.scalar(f"{name}.left.zero_point", left.zero_point, np.uint8)

    def sums(operand: ir.Value, zero_point: ir.Value, suffix: str, reads: tuple[float, int]) -> ir.Value:
        operands = [codes, operand, zero, zero_point]
        made = b.add("MatMulInteger", operands, f"{name}.{suffix}_codes", node=name, reads=reads)
        return b.step(name, "Cast", [made], suffix, to=ir.DataType.FLOAT)

    ones = b.constant(f"{name}.ones", np.ones((ctx.shape(weights)[-1], 1), np.int8))
    total = sums(ones, b.scalar(f"{name}.ones.zero_point", 0, np.int8), "total", (1.0, 0))
    if meets_signed(left, right):
        factor, middle = _signed(ctx, node, values), -right.middle
    else:
        unsigned, middle = ctx.known_codes(values), right.zero_point
        factor = unsigned, b.scalar(f"{name}.right.zero_point", right.zero_point, np.uint8)
    made = sums(*factor, "sums", (float(right.scale), middle))
    mean = b.add("Div", [made, total], f"{name}.float", node=name)
    ratio = b.scalar(f"{name}.step", float(params.scale / right.scale), np.float32)
    return ctx.record(node, params, ctx.quantize(node, params, mean, scale=ratio))


EMITTERS = {
    "matmul": Emitter(emit_matmul),
    "weighted_mean": Emitter(emit_weighted_mean, quantizes=True),
}

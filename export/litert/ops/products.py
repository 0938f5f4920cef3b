"""Products of two activations, and means whose weights are exponentials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value, unsupported
from qkd_deploy.export.litert.floats import from_steps, in_steps, reduced, step, with_number
from qkd_deploy.export.litert.grid import EXACT, MOST, Grid, true_grid
from qkd_deploy.export.litert.kernels import cut, relabelled
from qkd_deploy.export.litert.ops.arithmetic import product_label
from qkd_deploy.graph.ir import Node


def emit_matmul(ctx: LiteContext, node: Node) -> Value:
    """A product of matrices in integers; XNNPACK takes the right one's zero for the byte 0, whatever the file says."""
    left, right = node.inputs[0], node.inputs[-1]
    a, b = ctx.known_grid(left, node), ctx.known_grid(right, node)
    if node.quantizer is None:
        raise unsupported(node, "its result is in float")
    params, one, two = ctx.params(node), ctx.natural(left), ctx.natural(right)
    label = product_label(a, b, params.scale.item())
    if b.params.hi > MOST or label is None:
        sums = _exact_sums(ctx, node, in_steps(ctx, one, a), in_steps(ctx, two, b), (a, b))
        ratio = np.float32(a.scale) * np.float32(b.scale) / np.float32(params.scale.item())
        return from_steps(ctx, node.name, with_number(ctx, node.name, "MUL", sums, ratio), params)
    y = replace(true_grid(params), label=label)
    made = ctx.codes(node.name, ctx.sizes(node), y)
    two, _ = relabelled(ctx, two, b, replace(b, zero=0, cut="NONE"))
    ctx.file.operator("BATCH_MATMUL", [one, two], [made], schema.BatchMatMulOptionsT())
    return cut(ctx, made, y, params, last=False)


def emit_weighted_mean(ctx: LiteContext, node: Node) -> Value:
    """Sums of weighted codes over sums of weights, in float32, which holds both; the quotient is rounded once."""
    weights, values, undropped = node.inputs
    a, b, params = ctx.known_grid(weights, node), ctx.known_grid(values, node), ctx.params(node)
    shares = in_steps(ctx, ctx.natural(weights), a)
    sums = _exact_sums(ctx, node, shares, in_steps(ctx, ctx.natural(values), b), (a, b))
    whole = shares if undropped == weights else in_steps(ctx, ctx.natural(undropped), ctx.known_grid(undropped, node))
    means = step(ctx, node.name, "DIV", [sums, reduced(ctx, node.name, "SUM", whole)])
    ratio = np.float32(params.scale.item()) / np.float32(b.scale)
    return from_steps(ctx, node.name, with_number(ctx, node.name, "DIV", means, ratio), params)


def _exact_sums(ctx: LiteContext, node: Node, one: int, two: int, grids: tuple[Grid, Grid]) -> int:
    """A product of matrices of integers in float32.

    Raises:
        UserError: its sums are beyond the integers of float32.
    """
    a, b = grids
    if ctx.file.shapes[one][-1] * a.params.extent * b.params.extent > EXACT:
        raise unsupported(node, "its sums are beyond the integers of float32")
    shape = (*ctx.sizes(node)[:-1], ctx.file.shapes[two][-1])
    made = ctx.file.tensor(f"{node.name}.sums", shape)
    ctx.file.operator("BATCH_MATMUL", [one, two], [made], schema.BatchMatMulOptionsT())
    return made


EMITTERS = {"matmul": emit_matmul, "weighted_mean": emit_weighted_mean}

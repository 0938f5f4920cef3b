"""Single operations on floats, each rounded once, in which what has no integer kernel is computed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext, Value
from qkd_deploy.export.litert.grid import LEAST, MOST, Grid, true_grid
from qkd_deploy.export.litert.kernels import relabelled
from qkd_deploy.graph.exact.pairs import is_power_of_two
from qkd_deploy.graph.quantized import QuantParams

_OPTIONS: dict[str, Any] = {
    "ADD": schema.AddOptionsT,
    "MUL": schema.MulOptionsT,
    "SUB": schema.SubOptionsT,
    "DIV": schema.DivOptionsT,
    "MINIMUM": schema.MaximumMinimumOptionsT,
    "MAXIMUM": schema.MaximumMinimumOptionsT,
}


def step(ctx: LiteContext, name: str, code: str, inputs: Sequence[int], options: Any = None) -> int:
    """Append an operation on floats that broadcasts; returns its result."""
    shape = np.broadcast_shapes(*(ctx.file.shapes[index] for index in inputs))
    made = ctx.file.tensor(f"{name}.{code.lower()}", shape)
    ctx.file.operator(code, inputs, [made], _OPTIONS[code]() if code in _OPTIONS else options)
    return made


def with_number(ctx: LiteContext, name: str, code: str, index: int, value: Any) -> int:
    """Append an operation of a tensor and a constant in float32, which gets ones in front of its dimensions."""
    array, rank = np.asarray(value, np.float32), len(ctx.file.shapes[index])
    constant = ctx.file.constant("number", array.reshape([1] * (rank - array.ndim) + [*array.shape]))
    return step(ctx, name, code, [index, constant])


def reduced(ctx: LiteContext, name: str, code: str, index: int) -> int:
    """Append a reduction of the last dimension, which stays as one element."""
    shape, options = ctx.file.shapes[index], schema.ReducerOptionsT()
    options.keepDims = True
    made = ctx.file.tensor(f"{name}.{code.lower()}", (*shape[:-1], 1))
    axes = ctx.file.constant("axes", np.array([len(shape) - 1], np.int32))
    ctx.file.operator(code, [index, axes], [made], options)
    return made


def dequantized(ctx: LiteContext, index: int, grid: Grid) -> int:
    """Codes as what they stand for, in float32: ``f32(code * scale)``."""
    if grid.is_true:
        return _read(ctx, index)
    return with_number(ctx, ctx.file.tensors[index].name, "MUL", in_steps(ctx, index, grid), grid.scale)


def in_steps(ctx: LiteContext, index: int, grid: Grid) -> int:
    """Centered codes as integers in float32: a label of 1 makes them what they stand for."""
    return _read(ctx, relabelled(ctx, index, grid, replace(grid, label=1.0, cut="NONE"))[0])


def _read(ctx: LiteContext, index: int) -> int:
    made = ctx.file.tensor(f"{ctx.file.tensors[index].name}.dequantized", ctx.file.shapes[index])
    ctx.file.operator("DEQUANTIZE", [index], [made], schema.DequantizeOptionsT())
    return made


def quantized(ctx: LiteContext, name: str, index: int, params: QuantParams, *, last: bool = False) -> Value:
    """Floats as codes: a true division by the scale, which the kernel would multiply by ``1 / scale``."""
    if is_power_of_two(float(params.scale)) and _is_whole(params):
        return written(ctx, name, index, true_grid(params), last=last)
    return from_steps(ctx, name, with_number(ctx, name, "DIV", index, params.scale.item()), params, last=last)


def from_steps(ctx: LiteContext, name: str, index: int, params: QuantParams, *, last: bool = False) -> Value:
    """Quotients by the scale as codes: rounded half to even, and cut to their range."""
    grid = true_grid(params)
    index = step(ctx, name, "ROUND", [index])
    for code, limit, needless in (("MAXIMUM", params.lo, LEAST), ("MINIMUM", params.hi, MOST)):
        if limit + grid.zero != needless:
            index = with_number(ctx, name, code, index, limit)
    return written(ctx, name, with_number(ctx, name, "MUL", index, grid.label), grid, last=last)


def written(ctx: LiteContext, name: str, index: int, grid: Grid, *, last: bool) -> Value:
    """Floats as codes by the kernel alone."""
    made = ctx.codes(name, ctx.file.shapes[index], grid)
    ctx.file.operator("QUANTIZE", [index], [made], schema.QuantizeOptionsT())
    return Value(made, grid, last)


def _is_whole(params: QuantParams) -> bool:
    grid = true_grid(params)
    return grid.limits == (LEAST, MOST)

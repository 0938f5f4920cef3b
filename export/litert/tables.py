"""Functions of single codes: all results are known, so that the cheapest form is taken that gives every one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.export.litert.context import LiteContext
from qkd_deploy.export.litert.grid import Grid, made_grid, neighbours, true_grid
from qkd_deploy.export.litert.kernels import pointwise
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams

Codes = npt.NDArray[np.int64]
_WEIGHTS = (1, *range(127, 1, -1))


@dataclass(frozen=True)
class Table:
    """The results of a function for all codes of its operand.

    Attributes:
        operand: centered codes, in order.
        result: centered codes.
        params: what the results stand for.
    """

    operand: Codes
    result: Codes
    params: QuantParams


def all_codes(grid: Grid) -> QuantizedTensor:
    """Every code of a grid."""
    params = grid.params
    return QuantizedTensor(torch.arange(params.lo, params.hi + 1, dtype=torch.float32), params)


def table_of(x: Grid, result: QuantizedTensor) -> Table:
    """The table of a function, from its results for ``all_codes``."""
    operand = all_codes(x).codes.numpy().astype(np.int64)
    return Table(operand, result.codes.cpu().numpy().astype(np.int64), result.grid)


def as_line(
    ctx: LiteContext, name: str, index: int, x: Grid, table: Table, ratio: float, shift: int = 0
) -> tuple[int, Grid] | None:
    """Write ``rint(code * ratio + shift)`` as a convolution of single pixels; None where that is another table."""
    for weight in _WEIGHTS if shift else _WEIGHTS[:1]:
        for multiplier in neighbours(ratio / weight, 8):
            bias = int(np.rint(shift / multiplier))
            sums = (table.operand * weight + bias).astype(np.float32)
            made = np.rint(sums * np.float32(multiplier)).clip(table.params.lo, table.params.hi)
            if np.array_equal(made, table.result):
                return pointwise(ctx, name, index, x, made_grid(table.params), multiplier, weight, bias)
    return None


def gathered(ctx: LiteContext, name: str, index: int, x: Grid, table: Table) -> tuple[int, Grid]:
    """Look results up: Gather, which moves bytes, outside XNNPACK."""
    y, shape, bytes_of = true_grid(table.params), ctx.file.shapes[index], np.zeros(256, np.int8)
    bytes_of[table.operand + x.zero + 128] = table.result + y.zero
    wide = ctx.file.tensor(f"{name}.wide", shape, np.int32)
    cast = schema.CastOptionsT()
    cast.inDataType, cast.outDataType = schema.TensorType.INT8, schema.TensorType.INT32
    ctx.file.operator("CAST", [index], [wide], cast)
    places = ctx.file.tensor(f"{name}.places", shape, np.int32)
    up = ctx.file.constant("up", np.full([1] * len(shape), 128, np.int32))
    ctx.file.operator("ADD", [wide, up], [places], schema.AddOptionsT())
    made, options = ctx.codes(name, shape, y), schema.GatherOptionsT()
    known = ctx.file.constant(f"{name}.table", bytes_of, scale=y.label, zero_point=y.zero)
    ctx.file.operator("GATHER", [known, places], [made], options)
    return made, y

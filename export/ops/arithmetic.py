"""Sums, products and other scales in ONNX."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext, NamedParams
from qkd_deploy.export.emitter import Emitter, plain
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key

_FEW_CHANNELS = 192
"""Runs of more channels multiply as fast without being repeated (decision 12)."""


def emit_mul(ctx: EmitContext, node: Node) -> ir.Value:
    """Multiply two tensors; gates of few channels are repeated along the rows first.

    QLinearMul with channels last multiplies run by run, and a run is as long as one value of the gate lasts: as long as
    there are channels.
    """
    operands = []
    for name in node.inputs:
        repeat = name in ctx.grids and _is_small_gate(ctx.shape(name), node.sizes)
        operands.append(_repeated_along_rows(ctx, node, name) if repeat else ctx.values[name])
    return ctx.builder.add("Mul", operands, f"{node.name}.float", node=node.name)


def _is_small_gate(gate: tuple[int, ...], product: tuple[int, ...]) -> bool:
    """True for an operand with one value for each of a few channels of images wider than a pixel."""
    small = len(gate) == len(product) == 4 and gate[2:] == (1, 1) and gate[1] <= _FEW_CHANNELS
    return small and product[3] > 1


def _repeated_along_rows(ctx: EmitContext, node: Node, gate: str) -> ir.Value:
    """A gate ``[N, C, 1, 1]`` as ``[N, C, 1, W]``: Tile on its codes."""
    name, b = node.name, ctx.builder
    repeats = b.integers(f"{name}.repeats", [1, 1, 1, node.sizes[3]])
    wide = b.add("Tile", [ctx.codes(gate), repeats], f"{name}.repeated", node=name)
    constants = ctx.scale_and_zero_point(*ctx.grids[gate])
    return b.add("DequantizeLinear", [wide, *constants], f"{name}.repeated.dequantized", node=name)


def emit_requantize(ctx: EmitContext, node: Node) -> ir.Value:
    """Put codes on another grid by an integer addition of zero (decision 3).

    A QuantizeLinear right behind a DequantizeLinear would be merged away by the runtime's optimizer, and most values be
    wrong; with an operation between, it is not.
    """
    operand, b = node.inputs[0], ctx.builder
    if operand not in ctx.grids:
        return ctx.values[operand]
    owner, params = ctx.grids[operand]
    constants = ctx.scale_and_zero_point(owner, params)
    code = b.scalar(f"{node.name}.zero", params.zero_point, np.uint8)
    zero = b.add("DequantizeLinear", [code, *constants], f"{node.name}.zero.dequantized", node=f"{node.name}.zero")
    return b.add("Add", [ctx.values[operand], zero], f"{node.name}.float", node=node.name)


def emit_rescale(ctx: EmitContext, node: Node) -> ir.Value:
    """Multiply by a positive number: the same codes, read with another scale."""
    operand, factor = node.inputs[0], node.kwargs["factor"]
    codes = ctx.codes(operand)
    if codes is None:
        number = ctx.builder.scalar(f"{node.name}.factor", factor, np.float32)
        return ctx.builder.add("Mul", [ctx.values[operand], number], f"{node.name}.float", node=node.name)
    params = ctx.frozen.grid(module_key(node.name))
    ctx.grids[node.name] = NamedParams(node.name, params)
    return ctx.dequantize(node, params, codes)


EMITTERS = {
    "add": plain("Add"),
    "mul": Emitter(emit_mul),
    "requantize": Emitter(emit_requantize),
    "rescale": Emitter(emit_rescale),
}

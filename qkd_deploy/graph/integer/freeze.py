"""From learned steps to integers: every constant of the deployed model, computed once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from qkd_deploy.errors import UserError
from qkd_deploy.graph.exact.add_scale import CodeRange, portable_add_scale
from qkd_deploy.graph.exact.mul_scale import portable_mul_scale
from qkd_deploy.graph.exact.unary import (
    RELABELLED,
    before_key,
    before_relabelling,
    exponential_scale,
    leaky_scale,
    relabelled,
    sigmoid_scale,
)
from qkd_deploy.graph.integer.layer import IntegerLayer
from qkd_deploy.graph.integer.lower_bounds import lower_bound
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import operations
from qkd_deploy.graph.ops.contract import OPERATORS
from qkd_deploy.graph.ops.operations import slope_of
from qkd_deploy.graph.placement.place import WIDE_BITS
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.quantized import LookupParams, QuantParams, meets_signed

_POOL_RATIOS = (2.0**-31, 255.0)


@torch.no_grad()
def freeze(prepared: PreparedModel) -> FrozenModel:
    """The integer model of a prepared one, which stays as it is; takes milliseconds.

    Batch norms are folded in their running statistics, activation functions become ranges of codes, and the output
    scales of sums, products and functions are moved by parts in a million until every CPU agrees on every result.

    Raises:
        UserError: weights or steps that are not finite, or a layer whose accumulator could overflow; names the layer.
    """
    frozen_graph = copy.deepcopy(prepared.graph)
    grids: dict[str, QuantParams] = {}
    layers: dict[str, IntegerLayer] = {}
    least: dict[str, int] = {}  # codes that occur, by the keys of the grids
    holder: dict[str, str | None] = {}
    for node in frozen_graph.nodes:
        first = node.inputs[0] if node.inputs else ""
        passes_codes = OPERATORS[node.kind].operand_bits == "codes"
        holder[node.name] = node.quantizer or (holder.get(first) if passes_codes else None)
        made = holder[node.name]
        if node.kind == "rescale" and made is not None:
            holder[node.name] = own = module_key(node.name)
            grids[own], least[own] = grids[made].times(node.kwargs["factor"]), least[made]
        if node.kind == "pad" and made is not None:
            least[made] = min(least[made], 0)
        if node.is_layer:
            _require_finite(prepared, node)
            source = grids[node.source] if node.source is not None else None
            folded = prepared.folded(node, (source.scale, source.extent) if source is not None else None)
            layers[module_key(node.name)] = IntegerLayer(folded, prepared.layer_bits[node.name].weight)
        if node.quantizer is not None:
            keys = [key for name in node.inputs if (key := holder.get(name)) is not None]
            operands = [grids[key] for key in keys]
            if node.kind in ("matmul", "weighted_mean") and len(operands) > 1:
                _require_short_sums(node, (prepared.graph.node(first).shape or ())[-1], *operands[:2])
            made_grid, least_made = _grid(prepared, node, operands, [least[key] for key in keys])
            grids[node.quantizer], least[node.quantizer] = made_grid, least_made
            if node.kind == "table" and operands:
                grids[node.quantizer] = _with_table(prepared, node, operands[0], grids[node.quantizer])
            if node.kind in RELABELLED and operands:
                before = before_relabelling(node.kind, _code_range(operands[0]), node.name)
                grids[before_key(node)] = _as_grid(before)
                grids[node.quantizer] = _as_grid(relabelled(node.kind, before))
                least[node.quantizer] = grids[node.quantizer].lo
    network = copy.deepcopy(prepared.network)
    device = next(prepared.parameters()).device
    return FrozenModel(network, frozen_graph, grids, layers).to(device)


def _require_finite(prepared: PreparedModel, node: Node) -> None:
    """Refuse weights that rounding would hide: an infinite one is clipped to the largest code."""
    weight, _ = operations.layer_parameters(prepared.network, node)
    if not bool(torch.isfinite(weight).all()):
        raise UserError(f"{node.name} has weights that are not finite; restore an earlier checkpoint")


def _require_short_sums(node: Node, terms: int, left: QuantParams, right: QuantParams) -> None:
    """Refuse products that could overflow int32, also while the zero points are not yet taken off."""
    top, zero = left.zero_point + left.hi, right.zero_point
    if meets_signed(left, right):
        other, zero = max(right.middle - right.lo, right.hi - right.middle), abs(right.middle)
    else:
        other = zero + right.hi
    if terms * (top * other + left.zero_point * other + zero * top) >= 2**31:
        raise UserError(f"{node.name} sums {terms:,} products, which could overflow int32; attend to fewer positions")


def _grid(
    prepared: PreparedModel, node: Node, operands: list[QuantParams], least: list[int]
) -> tuple[QuantParams, int]:
    """The grid of a node's output, narrowed to the range of its activation function, and the least code that occurs.

    ``least`` are the least codes of the operands.
    """
    assert node.quantizer is not None
    quantizer = prepared.activation(node.quantizer)
    spec, scale = quantizer.spec, float(quantizer.scale())
    if not np.isfinite(scale):
        raise UserError(f"the step of {node.name} is not finite; restore an earlier checkpoint")
    if operands and node.kind == "global_avg_pool":
        shape = prepared.graph.node(node.inputs[0]).shape or ()
        scale = _pool_scale(float(operands[0].scale) / math.prod(shape[2:]), scale)
    lo, hi = _clipped(scale, spec.lo, spec.hi, node.clip)
    ranges = [replace(_code_range(grid), lo=low) for grid, low in zip(operands, least, strict=True)]

    def place(zero_point: int) -> tuple[QuantParams, int]:
        agreed, low, high = scale, lo, hi
        if operands and node.kind in _AGREED:
            agreed = _AGREED[node.kind](prepared, node, operands, CodeRange(scale, zero_point, lo, hi))
            low, high = _clipped(agreed, spec.lo, spec.hi, node.clip)
        bound = lower_bound(prepared.graph, node, ranges, agreed)
        bounded = bound is not None and bound >= low
        grid = QuantParams(agreed, spec.bits, zero_point, low, high, bounded_below=bounded)
        return grid, max(low, bound) if bound is not None else low

    grid, occurs = place(spec.zero_point)
    at_the_top = 255 - grid.hi
    # Weights beyond +-64 times codes up to 255 saturate on x86 CPUs without VNNI.
    if not grid.bounded_below or at_the_top == grid.zero_point or prepared.settings.weight_range != "narrow":
        return grid, occurs
    moved, occurs_there = place(at_the_top)
    return (moved, occurs_there) if moved.bounded_below and moved.hi + at_the_top == 255 else (grid, occurs)


def _agreed_sum(prepared: PreparedModel, node: Node, operands: list[QuantParams], out: CodeRange) -> float:
    a = _code_range(operands[0])
    # a requantization is an addition of zero; x + x has one operand twice
    zero = CodeRange(a.scale, a.zero_point, 0, 0)
    b = _code_range(operands[-1]) if node.kind == "add" else zero
    return portable_add_scale(a, b, out, node.name)


def _agreed_product(prepared: PreparedModel, node: Node, operands: list[QuantParams], out: CodeRange) -> float:
    return portable_mul_scale(_code_range(operands[0]), _code_range(operands[-1]), out, node.name)


def _agreed_sigmoid(prepared: PreparedModel, node: Node, operands: list[QuantParams], out: CodeRange) -> float:
    return sigmoid_scale(_code_range(operands[0]), out, node.name)


def _agreed_exponential(prepared: PreparedModel, node: Node, operands: list[QuantParams], out: CodeRange) -> float:
    return exponential_scale(_code_range(operands[0]), out, node.name)


def _agreed_leaky(prepared: PreparedModel, node: Node, operands: list[QuantParams], out: CodeRange) -> float:
    return leaky_scale(slope_of(prepared.network, prepared.graph, node), _code_range(operands[0]), out, node.name)


_AGREED: dict[str, Callable[[PreparedModel, Node, list[QuantParams], CodeRange], float]] = {
    **dict.fromkeys(("add", "requantize", "clip"), _agreed_sum),
    "mul": _agreed_product,
    "sigmoid": _agreed_sigmoid,
    "exponential": _agreed_exponential,
    "leaky_relu": _agreed_leaky,
}
"""Kinds whose output scales are moved by parts in a million until every CPU agrees."""


def _pool_scale(source: float, scale: float) -> float:
    """An output scale that ONNX Runtime's global pool accepts: it refuses ``source / scale`` outside [2^-32, 256).

    Beyond these ratios every sum but zero saturates, or every average is zero, so that a good step is never moved.
    """
    return min(max(scale, source / _POOL_RATIOS[1]), source / _POOL_RATIOS[0])


def _clipped(scale: float, lo: int, hi: int, clip: tuple[float, float] | None) -> tuple[int, int]:
    """A float clip as an integer one: rounding is monotone, so ``round(clip(x)/s) = clip(round(x/s))``."""
    low, high = clip or (-np.inf, np.inf)
    ends = np.rint(np.array([low, high], np.float32) / np.float32(scale))
    return int(max(lo, ends[0])), int(min(hi, ends[1]))


def _with_table(prepared: PreparedModel, node: Node, source: QuantParams, grid: QuantParams) -> LookupParams:
    """The codes of a function for all 256 stored codes of its operand, computed in float64."""
    stored = torch.arange(256, device=source.scale.device)
    x = ((stored - source.zero_point).float() * source.scale).double()
    y = operations.apply(prepared.network, node, (x, *node.args[1:]), node.kwargs, training=False)
    if node.clip is not None:
        y = y.clamp(*node.clip)
    codes = torch.round(torch.nan_to_num(y) / grid.scale.double()).clamp(grid.lo, grid.hi)
    return LookupParams(grid, (codes + grid.zero_point).to(torch.uint8))


def _as_grid(codes: CodeRange) -> QuantParams:
    return QuantParams(codes.scale, WIDE_BITS, codes.zero_point, codes.lo, codes.hi)


def _code_range(grid: QuantParams) -> CodeRange:
    return CodeRange(float(grid.scale), grid.zero_point, grid.lo, grid.hi)

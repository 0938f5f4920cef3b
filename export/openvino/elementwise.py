"""Sums and products of two tensors."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.functions import all_codes, evaluated, quantized
from qkd_deploy.export.openvino.gates import draw_gated, product_factor
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key

_NUDGES = tuple(np.float32(1 + sign * count * 2.0**-23) for count in range(7) for sign in (1, -1))


def draw_add(draw: Drawing, node: Node) -> ir.Value:
    """Add two tensors, each in steps of the sum."""
    if node.quantizer is None:
        return draw.do(node, "Add", [draw.real(node, name) for name in node.inputs])
    factors = _sum_factors(draw, node)
    values = draw.operands(node)
    if not draw.unquantized.intersection(node.inputs):
        # the plugin would add the first to a multiple of the second, and multiply the sum: two more roundings
        values[0] = draw.do(node, "Round", values[:1])
    operands = [draw.times(node, *pair) for pair in zip(values, factors, strict=True)]
    return draw.quantized(node, draw.do(node, "Add", operands))


def _sum_factors(draw: Drawing, node: Node) -> tuple[float, float]:
    """Factors of both operands with which every pair of codes gets its code, however the sum is rounded."""
    grids = [draw.grids[name] for name in node.inputs]
    out = draw.grid(node)
    pair = all_codes(grids[0])[:, None], all_codes(grids[1])[None]
    expected = evaluated(draw, node, [quantized(pair[0], grids[0]), quantized(pair[1], grids[1])])
    first, second = (np.float32(scale) / np.float32(float(out.scale)) for scale in draw.scales(node))
    for nudges in product(_NUDGES, repeat=2):
        factors = first * nudges[0], second * nudges[1]
        single = [codes.astype(np.float32) * factor for codes, factor in zip(pair, factors, strict=True)]
        exact = [codes.astype(np.float64) * float(factor) for codes, factor in zip(pair, factors, strict=True)]
        forms = (
            single[0] + single[1],
            (exact[0] + single[1]).astype(np.float32),
            (single[0] + exact[1]).astype(np.float32),
        )
        if all(np.array_equal(np.clip(np.rint(form), out.lo, out.hi), expected) for form in forms):
            return float(factors[0]), float(factors[1])
    return float(first), float(second)


def draw_mul(draw: Drawing, node: Node) -> ir.Value:
    """Multiply two tensors: products of codes are exact, and multiplied once."""
    if node.quantizer is None:
        return draw.do(node, "Mul", [draw.real(node, name) for name in node.inputs])
    gated = draw_gated(draw, node)
    if gated is not None:
        return gated
    factor = product_factor(draw, node)
    value = draw.times(node, draw.do(node, "Mul", draw.operands(node)), float(factor))
    return draw.quantized(node, value, rounded=True)


def draw_rescale(draw: Drawing, node: Node) -> ir.Value:
    """Read the same codes with another scale."""
    operand = node.inputs[0]
    if operand not in draw.grids:
        return draw.times(node, draw.values[operand], node.kwargs["factor"])
    draw.grids[node.name] = draw.frozen.grid(module_key(node.name))
    return draw.values[operand]


DRAWERS = {"add": draw_add, "mul": draw_mul, "rescale": draw_rescale}

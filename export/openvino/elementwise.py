"""Sums and products of two tensors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.exact import Floats, divided
from qkd_deploy.export.openvino.functions import Doubles, all_codes, evaluated, quantized
from qkd_deploy.export.openvino.gates import draw_gated, product_factor
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key

Singles = npt.NDArray[np.float32]

_NUDGES = tuple(np.float32(1 + sign * count * 2.0**-23) for count in range(7) for sign in (1, -1))


def draw_add(draw: Drawing, node: Node) -> ir.Value:
    """Add two tensors, each in steps of the sum."""
    if node.quantizer is None:
        return draw.do(node, "Add", [draw.real(node, name) for name in node.inputs])
    factors = _sum_factors(draw, node)
    if factors is None:
        return _defined_sum(draw, node)
    values = draw.operands(node)
    if not draw.unquantized.intersection(node.inputs):
        # the plugin would add the first to a multiple of the second, and multiply the sum: two more roundings
        values[0] = draw.do(node, "Round", values[:1])
    operands = [draw.times(node, *pair) for pair in zip(values, factors, strict=True)]
    return draw.quantized(node, draw.do(node, "Add", operands))


def _defined_sum(draw: Drawing, node: Node) -> ir.Value:
    """Add in real units and divide by the scale, every result rounded: what the integer model does, but slower."""
    do = Floats(draw, node)
    total = do.of("Add", *(do.rounded(draw.real(node, name)) for name in node.inputs))
    return draw.quantized(node, divided(draw, node, total, float(draw.grid(node).scale)), rounded=True)


def _sum_factors(draw: Drawing, node: Node) -> tuple[float, float] | None:
    """Factors of both operands with which every pair of codes gets its code, however the sum is rounded, if any."""
    grids = [draw.grids[name] for name in node.inputs]
    out = draw.grid(node)
    pair = all_codes(grids[0])[:, None], all_codes(grids[1])[None]
    expected = evaluated(draw, node, [quantized(pair[0], grids[0]), quantized(pair[1], grids[1])])
    first, second = (np.float32(scale) / np.float32(float(out.scale)) for scale in draw.scales(node))
    for nudges in product(_NUDGES, repeat=2):
        factors = first * nudges[0], second * nudges[1]
        forms = _sums(pair, factors)
        if all(np.array_equal(np.clip(np.rint(form), out.lo, out.hi), expected) for form in forms):
            return float(factors[0]), float(factors[1])
    return None


def _sums(codes: tuple[Doubles, Doubles], factors: tuple[np.float32, np.float32]) -> Iterator[Singles]:
    """What the plugin may make of the sum of two products: it fuses one of them, or multiplies the sum once more."""
    a, b = codes
    f, g = factors
    yield _product(a, f) + _product(b, g)
    yield (a * float(f) + _product(b, g)).astype(np.float32)
    yield (_product(a, f) + b * float(g)).astype(np.float32)
    for left, right, factor, ratio in ((a, b, f, g / f), (b, a, g, f / g)):
        yield _product(left + _product(right, ratio), factor)
        yield _product(left + right * float(ratio), factor)


def _product(codes: npt.NDArray[Any], factor: np.float32) -> Singles:
    return codes.astype(np.float32) * factor


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

"""Sums, products, and functions of single elements."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from qkd_deploy.export.openvino.context import Drawing, lowest_of
from qkd_deploy.export.openvino.float_ops import draw_float
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.activations import slope_of
from qkd_deploy.graph.ops.lookups import lookup_of
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams

Doubles = npt.NDArray[np.float64]
Function = Callable[[Drawing, Node, ir.Value, float], ir.Value]
"""Appends a function of codes with such a scale; returns floats in real units."""

_EXACT, _APPROXIMATE = 2.0**-21, 4e-6
"""What float32 arithmetic may be off by, relative to the largest result; and approximations of functions, absolute."""
_NUDGES = tuple(np.float32(1 + sign * count * 2.0**-23) for count in range(7) for sign in (1, -1))


# -- sums and products -------------------------------------------------------------------------------------------------


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
    pair = _codes(grids[0])[:, None], _codes(grids[1])[None]
    expected = _evaluated(draw, node, [_quantized(pair[0], grids[0]), _quantized(pair[1], grids[1])])
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
    scales = [np.float32(scale) for scale in draw.scales(node)]
    factor = scales[0] * scales[1] / np.float32(float(draw.grid(node).scale))
    value = draw.times(node, draw.do(node, "Mul", draw.operands(node)), float(factor))
    return draw.quantized(node, value, rounded=True)


def draw_rescale(draw: Drawing, node: Node) -> ir.Value:
    """Read the same codes with another scale."""
    operand = node.inputs[0]
    if operand not in draw.grids:
        return draw.times(node, draw.values[operand], node.kwargs["factor"])
    draw.grids[node.name] = draw.frozen.grid(module_key(node.name))
    return draw.values[operand]


# -- functions ---------------------------------------------------------------------------------------------------------


def function_of_codes(function: Function, error: float) -> Callable[[Drawing, Node], ir.Value]:
    """A writer of a function, which is known for all codes: in float where that gives all of them, else as a table."""

    def draw_function(draw: Drawing, node: Node) -> ir.Value:
        operand = node.inputs[0]
        if node.quantizer is None or operand not in draw.grids:
            value = function(draw, node, draw.real(node, operand), 1.0)
            return value if node.quantizer is None else _put_on_grid(draw, node, value)
        codes, source = _codes(draw.grids[operand]), draw.grids[operand]
        made = _evaluated(draw, node, [_quantized(codes, source)])
        shift = _shift(draw, node, codes, made, error)
        if shift is None:
            return table(draw, node, codes, made)
        value = function(draw, node, draw.values[operand], float(source.scale))
        value = draw.times(node, value, 1 / float(draw.grid(node).scale))
        if shift:
            value = draw.do(node, "Add", [value, draw.sketch.number(shift)])
        return draw.quantized(node, value, rounded=True)

    return draw_function


def _put_on_grid(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    return draw.quantized(node, draw.times(node, value, 1 / float(draw.grid(node).scale)), rounded=True)


def _shift(draw: Drawing, node: Node, codes: Doubles, made: Doubles, error: float) -> float | None:
    """What to add to the function's results, in steps, so that none is near a tie; None where nothing helps."""
    grid, source = draw.grid(node), draw.grids[node.inputs[0]]
    real = torch.from_numpy(codes) * source.scale.double()
    view = draw.frozen.network, node, (real, *node.args[1:]), node.kwargs, False
    exact = operator_of(node).floats(*view).detach()
    steps = exact.double().numpy() / float(grid.scale)
    inner = ~((made == grid.lo) & (steps < grid.lo)) & ~((made == grid.hi) & (steps > grid.hi))
    up = (made + 0.5 - steps)[inner].min(initial=0.5)
    down = (steps - made + 0.5)[inner].min(initial=0.5)
    least = error / float(grid.scale) if error == _APPROXIMATE else error * np.abs(steps).max(initial=1.0)
    if min(up, down) > least:
        return 0.0
    return float((up - down) / 2) if (up + down) / 2 > least else None


def table(draw: Drawing, node: Node, codes: Doubles, made: Doubles) -> ir.Value:
    """Look results up by code."""
    draw.grids[node.name] = draw.grid(node)
    values = draw.sketch.array(made.astype(np.float32))
    first = draw.sketch.number(-codes[0])
    index = draw.do(node, "Cast", [draw.do(node, "Add", [draw.values[node.inputs[0]], first])], to=ir.DataType.INT32)
    found = draw.do(node, "Gather", [values, index], axis=0)
    return draw.sketch.fake_quantize(node.name, found, lowest_of(draw.grid(node)))


def _codes(grid: QuantParams) -> Doubles:
    return np.arange(grid.lo, grid.hi + 1, dtype=np.float64)


def _quantized(codes: Doubles, grid: QuantParams) -> QuantizedTensor:
    return QuantizedTensor(torch.from_numpy(codes).float(), grid)


def _evaluated(draw: Drawing, node: Node, operands: list[Any]) -> Doubles:
    """The frozen model's codes of a node for such operands."""
    made = draw.frozen.evaluate(node, (*operands, *node.args[len(operands) :]), node.kwargs)
    result: Doubles = made.codes.double().numpy()
    return result


def _scaled(operator: str, **attributes: Any) -> Function:
    """An ONNX operator of the operand in real units."""

    def function(draw: Drawing, node: Node, value: ir.Value, scale: float) -> ir.Value:
        return draw.do(node, operator, [draw.times(node, value, scale)], **attributes)

    return function


def _same(draw: Drawing, node: Node, value: ir.Value, scale: float) -> ir.Value:
    return draw.times(node, value, scale)


def _leaky(draw: Drawing, node: Node, value: ir.Value, scale: float) -> ir.Value:
    slope = slope_of(draw.frozen.network, draw.frozen.graph, node)
    return draw.do(node, "LeakyRelu", [draw.times(node, value, scale)], alpha=slope)


def draw_lookup(draw: Drawing, node: Node) -> ir.Value:
    """A GELU by its own operator where that gives all codes; any other function as a table."""
    if node.quantizer is None or node.inputs[0] not in draw.grids:
        return draw_float(draw, node)
    approximate = _gelu_form(draw, node)
    if approximate is not None:
        return function_of_codes(_scaled("Gelu", approximate=approximate), _APPROXIMATE)(draw, node)
    codes = _codes(draw.grids[node.inputs[0]])
    return table(draw, node, codes, _evaluated(draw, node, [_quantized(codes, draw.grids[node.inputs[0]])]))


def _gelu_form(draw: Drawing, node: Node) -> str | None:
    """How a GELU is computed, "none" or "tanh"; None for other functions."""
    lookup = lookup_of(draw.frozen.network, node)
    if lookup is None or lookup.name != "Gelu":
        return None
    if isinstance(node.target, str) and not node.method:
        return str(getattr(draw.frozen.network.get_submodule(node.target), "approximate", "none"))
    return str(node.kwargs.get("approximate", "none"))


DRAWERS = {
    "add": draw_add,
    "mul": draw_mul,
    "rescale": draw_rescale,
    "requantize": function_of_codes(_same, _EXACT),
    "clip": function_of_codes(_same, _EXACT),
    "leaky_relu": function_of_codes(_leaky, _EXACT),
    "sigmoid": function_of_codes(_scaled("Sigmoid"), _APPROXIMATE),
    "tanh": function_of_codes(_scaled("Tanh"), _APPROXIMATE),
    "hard_sigmoid": function_of_codes(_scaled("HardSigmoid", alpha=1 / 6, beta=0.5), _APPROXIMATE),
    "lookup": draw_lookup,
}

"""Functions of single elements, which are known for all codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from qkd_deploy.export.openvino.context import Drawing, lowest_of
from qkd_deploy.export.openvino.float_ops import draw_float
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.activations import slope_of
from qkd_deploy.graph.ops.lookups import lookup_of
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams

Doubles = npt.NDArray[np.float64]
Function = Callable[[Drawing, Node, ir.Value, float, float], ir.Value]
"""Appends a function of codes with such a scale; returns floats in steps of such a size."""

_ROUNDING = 2.0**-21
"""What float32 arithmetic may be off by, relative to the largest result."""
_EXACT, _SIGMOID, _GELU = 0.0, 1e-6, 4e-6
"""What the plugin's approximations may be off by: two to five times what was measured over all of float32."""
_GELU_OF_SMALL = 1e-6
"""What a GELU may be off by, relative to its operand."""
_LARGEST_EXPONENT = 80.0
"""Beyond it, the exponential of a float32 is no float32."""


def function_of_codes(function: Function, error: float) -> Callable[[Drawing, Node], ir.Value]:
    """A writer of a function, which is known for all codes: in float where that gives all of them, else as a table."""

    def draw_function(draw: Drawing, node: Node) -> ir.Value:
        operand = node.inputs[0]
        if node.quantizer is None or operand not in draw.grids:
            step = 1.0 if node.quantizer is None else float(draw.grid(node).scale)
            value = function(draw, node, draw.real(node, operand), 1.0, step)
            return value if node.quantizer is None else draw.quantized(node, value, rounded=True)
        steps = in_steps(draw, node, function, error)
        return table(draw, node) if steps is None else draw.quantized(node, steps, rounded=True)

    return draw_function


def in_steps(draw: Drawing, node: Node, function: Function, error: float) -> ir.Value | None:
    """The function in steps of its own grid, away from ties; None where a code is too close to one."""
    source, grid = draw.grids[node.inputs[0]], draw.grid(node)
    shift = _shift(draw, node, error)
    if shift is None:
        return None
    value = function(draw, node, draw.values[node.inputs[0]], float(source.scale), float(grid.scale))
    return draw.do(node, "Add", [value, draw.sketch.number(shift)]) if shift else value


def _shift(draw: Drawing, node: Node, error: float) -> float | None:
    """What to add to the function's results, in steps, so that none is near a tie; None where nothing helps."""
    grid, made, steps = draw.grid(node), codes_of_all(draw, node), exact_steps(draw, node)
    inner = ~((made == grid.lo) & (steps < grid.lo)) & ~((made == grid.hi) & (steps > grid.hi))
    up = (made + 0.5 - steps)[inner].min(initial=0.5)
    down = (steps - made + 0.5)[inner].min(initial=0.5)
    least = error / float(grid.scale) + _ROUNDING * np.abs(steps).max(initial=1.0)
    if min(up, down) > least:
        return 0.0
    return float((up - down) / 2) if (up + down) / 2 > least else None


def exact_steps(draw: Drawing, node: Node) -> Doubles:
    """The function of all codes in steps of its own grid, in double precision."""
    source = draw.grids[node.inputs[0]]
    real = torch.from_numpy(all_codes(source)) * source.scale.double()
    made = operator_of(node).floats(draw.frozen.network, node, (real, *node.args[1:]), node.kwargs, False)
    result: Doubles = made.detach().double().numpy() / float(draw.grid(node).scale)
    return result


def table(draw: Drawing, node: Node) -> ir.Value:
    """Look results up by code."""
    grid = draw.grids[node.name] = draw.grid(node)
    values = draw.sketch.array(codes_of_all(draw, node).astype(np.float32))
    first = draw.sketch.number(-draw.grids[node.inputs[0]].lo)
    index = draw.do(node, "Cast", [draw.do(node, "Add", [draw.values[node.inputs[0]], first])], to=ir.DataType.INT32)
    return draw.sketch.fake_quantize(node.name, draw.do(node, "Gather", [values, index], axis=0), lowest_of(grid))


def all_codes(grid: QuantParams) -> Doubles:
    """Every code of a grid."""
    return np.arange(grid.lo, grid.hi + 1, dtype=np.float64)


def largest(grid: QuantParams) -> float:
    """The largest magnitude on a grid, in real units."""
    return float(grid.scale) * max(-grid.lo, grid.hi)


def codes_of_all(draw: Drawing, node: Node) -> Doubles:
    """The frozen model's codes of a function of one tensor, for all codes of that."""
    source = draw.grids[node.inputs[0]]
    return evaluated(draw, node, [quantized(all_codes(source), source)])


def quantized(codes: Doubles, grid: QuantParams) -> QuantizedTensor:
    """Codes as the frozen model takes them."""
    return QuantizedTensor(torch.from_numpy(codes).float(), grid)


def evaluated(draw: Drawing, node: Node, operands: list[Any]) -> Doubles:
    """The frozen model's codes of a node for such operands."""
    made = draw.frozen.evaluate(node, (*operands, *node.args[len(operands) :]), node.kwargs)
    result: Doubles = made.codes.double().numpy()
    return result


def _scaled(operator: str, **attributes: Any) -> Function:
    """An ONNX operator of the operand in real units."""

    def function(draw: Drawing, node: Node, value: ir.Value, scale: float, step: float) -> ir.Value:
        made = draw.do(node, operator, [draw.times(node, value, scale)], **attributes)
        return draw.times(node, made, 1 / step)

    return function


def _same(draw: Drawing, node: Node, value: ir.Value, scale: float, step: float) -> ir.Value:
    return draw.times(node, draw.times(node, value, scale), 1 / step)


def _leaky(draw: Drawing, node: Node, value: ir.Value, scale: float, step: float) -> ir.Value:
    slope = slope_of(draw.frozen.network, draw.frozen.graph, node)
    return draw.times(node, draw.do(node, "LeakyRelu", [draw.times(node, value, scale)], alpha=slope), 1 / step)


def logistic(draw: Drawing, node: Node, value: ir.Value, scale: float, step: float) -> ir.Value:
    """A sigmoid by way of its exponential: faster where other operations stand around it."""
    if largest(draw.grids[node.inputs[0]]) > _LARGEST_EXPONENT:
        return SIGMOID[0](draw, node, value, scale, step)
    below = draw.do(node, "Exp", [draw.times(node, value, -scale)])
    below = draw.do(node, "Add", [below, draw.sketch.number(1.0)])
    return draw.do(node, "Div", [draw.sketch.number(1 / step), below])


def draw_requantize(draw: Drawing, node: Node) -> ir.Value:
    """Put a tensor on another grid; in front of a transposition, which the plugin makes part of a product behind it."""
    moved = draw.frozen.graph.node(node.inputs[0])
    before = moved.inputs[0] if moved.kind == "transpose" else ""
    if before not in draw.grids or node.quantizer is None:
        return _REQUANTIZE(draw, node)
    transposed, draw.values[moved.name] = draw.values[moved.name], draw.values[before]
    value = _REQUANTIZE(draw, node)
    draw.values[moved.name] = transposed
    return draw.do(node, "Transpose", [value], perm=list(moved.kwargs["dims"]))


def draw_lookup(draw: Drawing, node: Node) -> ir.Value:
    """A GELU by its own operator where that gives all codes; any other function as a table."""
    if node.quantizer is None or node.inputs[0] not in draw.grids:
        return draw_float(draw, node)
    approximate = _gelu_form(draw, node)
    if approximate is None:
        return table(draw, node)
    error = min(_GELU, _GELU_OF_SMALL * largest(draw.grids[node.inputs[0]]))
    return function_of_codes(_scaled("Gelu", approximate=approximate), error)(draw, node)


def _gelu_form(draw: Drawing, node: Node) -> str | None:
    """How a GELU is computed, "none" or "tanh"; None for other functions."""
    lookup = lookup_of(draw.frozen.network, node)
    if lookup is None or lookup.name != "Gelu":
        return None
    if isinstance(node.target, str) and not node.method:
        return str(getattr(draw.frozen.network.get_submodule(node.target), "approximate", "none"))
    return str(node.kwargs.get("approximate", "none"))


SIGMOID = _scaled("Sigmoid"), _SIGMOID
HARD_SIGMOID = _scaled("HardSigmoid", alpha=1 / 6, beta=0.5), _SIGMOID

_REQUANTIZE = function_of_codes(_same, _EXACT)

DRAWERS = {
    "requantize": draw_requantize,
    "clip": function_of_codes(_same, _EXACT),
    "leaky_relu": function_of_codes(_leaky, _EXACT),
    "sigmoid": function_of_codes(*SIGMOID),
    "tanh": function_of_codes(_scaled("Tanh"), _SIGMOID),
    "hard_sigmoid": function_of_codes(*HARD_SIGMOID),
    "lookup": draw_lookup,
}

"""Tensors times a function of themselves, such as SiLU and Hardswish.

The product is a function of one tensor, of which all codes are known: where none of them is close to a tie, nothing is
rounded between the operations but the codes of the gate.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.functions import (
    HARD_SIGMOID,
    SIGMOID,
    all_codes,
    codes_of_all,
    evaluated,
    exact_steps,
    in_steps,
    logistic,
    quantized,
)
from qkd_deploy.graph.ir import Node

_FUNCTIONS = {"sigmoid": (logistic, SIGMOID[1]), "hard_sigmoid": HARD_SIGMOID}
_ROOM = 2.0**-14
"""What three roundings of float32 to numbers below 256, and one behind the addition of a zero point, stay below."""


_SHIFTED = 0.2
"""By how much a gate may exceed its largest code and still be rounded to it, though it is moved by up to a quarter."""


def draw_gated(draw: Drawing, node: Node) -> ir.Value | None:
    """Multiply a tensor by a function of itself; None for other products."""
    gate = _gate(draw, node)
    if gate is None:
        return None
    made = in_steps(draw, gate, *_FUNCTIONS[gate.kind])
    if made is None:
        return None
    grid, operand = draw.grid(gate), gate.inputs[0]
    value = draw.do(gate, "Round", [made])
    steps = exact_steps(draw, gate)
    if steps.min() < grid.lo - _SHIFTED or steps.max() > grid.hi + _SHIFTED:
        value = draw.do(gate, "Clip", [value, draw.sketch.number(grid.lo), draw.sketch.number(grid.hi)])
    value = draw.do(node, "Mul", [draw.values[operand], value])
    value = draw.times(node, value, float(product_factor(draw, node)))
    return draw.quantized(node, value, settled=_is_away_from_ties(draw, node, gate))


def _gate(draw: Drawing, node: Node) -> Node | None:
    """The factor that is a function of the other one."""
    for gate, operand in (node.inputs, node.inputs[::-1]):
        made = draw.frozen.graph.node(gate)
        if made.kind in _FUNCTIONS and made.inputs[0] == operand and {gate, operand} <= draw.grids.keys():
            return made
    return None


def _is_away_from_ties(draw: Drawing, node: Node, gate: Node) -> bool:
    """Say if the product of every code is far enough from where codes change."""
    source, grid = draw.grids[gate.inputs[0]], draw.grid(node)
    codes, gates = all_codes(source), codes_of_all(draw, gate)
    operands = {gate.inputs[0]: quantized(codes, source), gate.name: quantized(gates, draw.grid(gate))}
    made = evaluated(draw, node, [operands[name] for name in node.inputs])
    steps = np.clip(codes * gates * float(product_factor(draw, node)), grid.lo, grid.hi)
    return bool(np.abs(steps - made).max() < 0.5 - _ROOM)


def product_factor(draw: Drawing, node: Node) -> np.float32:
    """What products of codes are multiplied by."""
    first, second = (np.float32(scale) for scale in draw.scales(node))
    return first * second / np.float32(float(draw.grid(node).scale))

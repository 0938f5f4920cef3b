"""Float32 as IEEE 754 rounds it, where OpenVINO would round otherwise.

The plugin divides by multiplying with the reciprocal, and fuses a product and a sum that follows, so that the product
is not rounded. Both depend on the CPU. Here quotients are corrected by their remainder, which is computed without
error.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.graph.exact.pairs import FloatMath, FloatPair, is_power_of_two
from qkd_deploy.graph.ir import Node

_LEAST = float(np.finfo(np.float32).min)


class Floats(FloatMath[ir.Value]):
    """Operations that a node is computed in."""

    def __init__(self, draw: Drawing, node: Node) -> None:
        """``node`` names what is computed."""
        self._draw, self._node = draw, node

    def of(self, operator: str, *operands: ir.Value) -> ir.Value:
        """An operation of tensors."""
        return self._draw.do(self._node, operator, operands)

    def with_number(self, operator: str, operand: ir.Value, number: float) -> ir.Value:
        """An operation of a tensor and a number; a quotient is not the nearest, but always the same."""
        made = self.of(operator, operand, self._draw.sketch.number(number))
        return self.rounded(made) if operator == "Div" else made

    def constant(self, like: ir.Value, number: float) -> ir.Value:
        """A number, of rank 0."""
        return self._draw.sketch.number(number)

    def rounded(self, product: ir.Value) -> ir.Value:
        """A product that is rounded before it is added or multiplied: a limit below all floats stands in between.

        The plugin moves factors of constants over most other operations that change nothing.
        """
        return self.of("Max", product, self._draw.sketch.number(_LEAST))

    def whole(self, integers: ir.Value) -> ir.Value:
        """Integers behind which no scale of a FakeQuantize is moved: the plugin does not know how to round it, too."""
        return self.of("Round", integers)

    def quotient(self, x: ir.Value, divisor: ir.Value) -> ir.Value:
        """``x / divisor``, rounded once."""
        inverse = self.of("Div", self._draw.sketch.number(1.0), divisor)
        return self._corrected(x, self.halves(self.with_number("Mul", divisor, -1.0)), inverse)

    def quotient_by_number(self, x: ir.Value, divisor: float) -> ir.Value:
        """``x / divisor``, rounded once."""
        inverse = self._draw.sketch.number(1 / float(np.float32(divisor)))
        if is_power_of_two(divisor):
            return self.of("Mul", x, inverse)
        high, low = (self._draw.sketch.number(-part) for part in number_halves(divisor))
        return self._corrected(x, (high, low), inverse)

    def _corrected(self, x: ir.Value, negative: FloatPair[ir.Value], inverse: ir.Value) -> ir.Value:
        near = self.rounded(self.of("Mul", x, inverse))
        rest = x
        for part in self.halves(near):
            for factor in negative:
                rest = self.of("Add", rest, self.of("Mul", part, factor))
        return self.of("Add", near, self.of("Mul", rest, inverse))


def divided(draw: Drawing, node: Node, value: ir.Value, divisor: float) -> ir.Value:
    """``value / divisor`` as rounded once, near every tie of results that are rounded to codes next.

    The remainder beside the nearest tie is exact where the divisor is split into two numbers of 12 bits, and corrects
    the quotient.
    """
    do = Floats(draw, node)
    quotient = do.with_number("Mul", value, 1 / divisor)
    if is_power_of_two(divisor):
        return quotient
    tie = do.with_number("Add", do.of("Floor", quotient), 0.5)
    rest = value
    for part in number_halves(divisor):
        rest = do.of("Add", rest, do.with_number("Mul", tie, -part))
    return do.of("Add", tie, do.with_number("Mul", rest, 1 / divisor))


def number_halves(number: float) -> tuple[float, float]:
    """A float32 as a sum of two numbers of 12 bits."""
    single = np.float32(number)
    head = (single.view(np.int32) & np.int32(-(2**12))).view(np.float32)
    return float(head), float(single - head)

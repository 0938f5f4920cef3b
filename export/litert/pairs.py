"""Numbers of 48 bits as unevaluated sums of two float32, for what the integer model computes in float64.

The runtime has no float64. Every operation here is rounded once, to nearest, which is all that the sums and products
without error of Dekker (https://doi.org/10.1007/BF01397083) and Knuth need.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qkd_deploy.export.litert.context import LiteContext
from qkd_deploy.export.litert.floats import step, with_number

_SPLITTER = 4097.0
"""2^12 + 1: cuts 24 bits into twice 12."""
_ROW, _COLUMN = 4096.0, 512.0


class FloatPair(NamedTuple):
    """Two tensors of the file, of which the second is small beside the first."""

    high: int
    low: int


class Floats:
    """Operations of one name, short to write."""

    def __init__(self, ctx: LiteContext, name: str) -> None:
        """``name`` is that of the tensor that is computed."""
        self._ctx, self._name = ctx, name

    def of(self, code: str, *operands: int) -> int:
        """An operation of tensors."""
        return step(self._ctx, self._name, code, operands)

    def with_number(self, code: str, operand: int, number: float) -> int:
        """An operation of a tensor and a number."""
        return with_number(self._ctx, self._name, code, operand, number)

    def constant(self, like: int, number: float) -> int:
        """A number of the rank of a tensor."""
        ones = [1] * len(self._ctx.file.shapes[like])
        return self._ctx.file.constant("number", np.full(ones, number, np.float32))

    def sum(self, one: int, two: int) -> FloatPair:
        """``one + two`` without error."""
        high = self.of("ADD", one, two)
        back = self.of("SUB", high, one)
        return FloatPair(
            high, self.of("ADD", self.of("SUB", one, self.of("SUB", high, back)), self.of("SUB", two, back))
        )

    def halves(self, x: int) -> FloatPair:
        """A number as a sum of two of 12 bits."""
        wide = self.with_number("MUL", x, _SPLITTER)
        high = self.of("SUB", wide, self.of("SUB", wide, x))
        return FloatPair(high, self.of("SUB", x, high))

    def digits(self, x: int, base: float) -> FloatPair:
        """A whole number as ``base * high + low``, with ``low`` from 0 to below ``base``."""
        high = self.of("FLOOR", self.with_number("MUL", x, 1 / base))
        return FloatPair(high, self.of("SUB", x, self.with_number("MUL", high, base)))


def scaled_variance(do: Floats, total: int, squares: int, length: int) -> FloatPair:
    """``length * squares - total^2`` of whole numbers, without error.

    Args:
        do: the operations.
        total: sums of up to ``length`` <= 1024 integers of at most 8 bits.
        squares: sums of their squares, up to 2^24.
        length: of rows.
    """
    many, few = do.digits(squares, _ROW)
    high, low = do.digits(total, _COLUMN)
    fours, rest = do.digits(do.of("MUL", high, low), 4.0)
    # total^2 = 2^18 high^2 + 2^10 high low + low^2, and 2^10 high low = 2^12 fours + 2^10 rest
    rows = do.of("SUB", do.with_number("MUL", many, length), do.with_number("MUL", do.of("MUL", high, high), 64.0))
    rows = do.with_number("MUL", do.of("SUB", rows, fours), _ROW)
    ones = do.of("SUB", do.with_number("MUL", few, length), do.of("MUL", low, low))
    return do.sum(rows, do.of("SUB", ones, do.with_number("MUL", rest, 1024.0)))


def root_over(do: Floats, x: FloatPair, length: int) -> int:
    """``sqrt(x) / length``, rounded to float32 at the end alone."""
    root = do.of("SQRT", x.high)
    high, low = do.halves(root)
    missing = do.of("SUB", x.high, do.of("MUL", high, high))
    missing = do.of("SUB", missing, do.with_number("MUL", do.of("MUL", high, low), 2.0))
    missing = do.of("ADD", do.of("SUB", missing, do.of("MUL", low, low)), x.low)
    rest = do.of("DIV", missing, do.with_number("MUL", root, 2.0))
    quotient = do.with_number("DIV", root, length)
    high, low = do.halves(quotient)
    left = do.of("SUB", root, do.with_number("MUL", high, length))
    left = do.of("ADD", do.of("SUB", left, do.with_number("MUL", low, length)), rest)
    return do.of("ADD", quotient, do.with_number("DIV", left, length))

"""Numbers of 48 bits as unevaluated sums of two float32, for what the integer model computes in float64.

The runtimes in question have no float64. Sums, differences, products and roots of theirs are rounded once, to nearest,
which is all that the sums and products without error of Dekker (https://doi.org/10.1007/BF01397083) and Knuth need.
Products that are added are exact here, so that it does not matter if a runtime fuses both. Of quotients, a few bits are
asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeAlias, TypeVar

import numpy as np

T = TypeVar("T")
FloatPair: TypeAlias = tuple[T, T]
"""Two tensors, of which the second is small beside the first."""

_SPLITTER = 4097.0
"""2^12 + 1: cuts 24 bits into twice 12."""
_HALF_OF_ONE = 0.5
_ROW, _COLUMN = 4096.0, 512.0


class FloatMath(ABC, Generic[T]):
    """Operations on float32 in a file for some runtime, whose tensors are of type ``T``."""

    @abstractmethod
    def of(self, operator: str, *operands: T) -> T:
        """Append an operation of tensors, by its name in ONNX: Add, Sub, Mul, Div, Floor, Sqrt."""

    @abstractmethod
    def with_number(self, operator: str, operand: T, number: float) -> T:
        """Append an operation of a tensor and a number."""

    @abstractmethod
    def constant(self, like: T, number: float) -> T:
        """A number of the rank of a tensor."""

    def sum(self, one: T, two: T) -> FloatPair[T]:
        """``one + two`` without error."""
        high = self.of("Add", one, two)
        back = self.of("Sub", high, one)
        return high, self.of("Add", self.of("Sub", one, self.of("Sub", high, back)), self.of("Sub", two, back))

    def halves(self, x: T) -> FloatPair[T]:
        """A number as a sum of two of 12 bits."""
        wide = self.with_number("Mul", x, _SPLITTER)
        high = self.of("Sub", wide, self.of("Sub", wide, x))
        return high, self.of("Sub", x, high)

    def digits(self, x: T, base: float) -> FloatPair[T]:
        """A whole number as ``base * high + low``, with ``low`` from 0 to below ``base``."""
        high = self.of("Floor", self.with_number("Mul", x, 1 / base))
        return high, self.of("Sub", x, self.with_number("Mul", high, base))


def deviation(do: FloatMath[T], total: T, squares: T, length: int, eps: float) -> T:
    """``sqrt((n * squares - total^2) / n^2 + eps)``, as ``sqrt(n * squares - total^2 + eps * n^2) / n``.

    Args:
        do: the operations.
        total: sums of up to ``length`` <= 1024 integers of at most 8 bits.
        squares: sums of their squares, up to 2^24.
        length: of rows.
        eps: what is added, in float64.
    """
    (many, few), stabilised = _scaled_variance(do, total, squares, length), eps * float(length) ** 2
    high, low = do.sum(many, do.constant(many, stabilised))
    rest = do.with_number("Add", few, stabilised - float(np.float32(stabilised)))
    return _root_over(do, (high, do.of("Add", low, rest)), length)


def _scaled_variance(do: FloatMath[T], total: T, squares: T, length: int) -> FloatPair[T]:
    """``length * squares - total^2`` of whole numbers, without error."""
    many, few = do.digits(squares, _ROW)
    high, low = do.digits(total, _COLUMN)
    fours, rest = do.digits(do.of("Mul", high, low), 4.0)
    # total^2 = 2^18 high^2 + 2^10 high low + low^2, and 2^10 high low = 2^12 fours + 2^10 rest
    rows = do.of("Sub", do.with_number("Mul", many, length), do.with_number("Mul", do.of("Mul", high, high), 64.0))
    rows = do.with_number("Mul", do.of("Sub", rows, fours), _ROW)
    ones = do.of("Sub", do.with_number("Mul", few, length), do.of("Mul", low, low))
    return do.sum(rows, do.of("Sub", ones, do.with_number("Mul", rest, 1024.0)))


def _root_over(do: FloatMath[T], x: FloatPair[T], length: int) -> T:
    """``sqrt(x) / length``, rounded to float32 at the end alone."""
    root = do.of("Sqrt", x[0])
    high, low = do.halves(root)
    missing = do.of("Sub", x[0], do.of("Mul", high, high))
    missing = do.of("Sub", missing, do.with_number("Mul", do.of("Mul", high, low), 2.0))
    missing = do.of("Add", do.of("Sub", missing, do.of("Mul", low, low)), x[1])
    rest = do.of("Div", missing, do.with_number("Mul", root, 2.0))
    quotient = do.with_number("Div", root, length)
    high, low = do.halves(quotient)
    left = do.of("Sub", root, do.with_number("Mul", high, length))
    left = do.of("Add", do.of("Sub", left, do.with_number("Mul", low, length)), rest)
    return do.of("Add", quotient, do.with_number("Div", left, length))


def is_power_of_two(number: float) -> bool:
    """Say if floats are multiplied and divided by it without rounding."""
    return bool(np.frexp(np.float32(number))[0] == _HALF_OF_ONE)

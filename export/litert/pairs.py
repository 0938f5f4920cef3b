"""Arithmetic in pairs of float32, in operators of the runtime."""

from __future__ import annotations

import numpy as np

from qkd_deploy.export.litert.context import LiteContext
from qkd_deploy.export.litert.floats import step, with_number
from qkd_deploy.graph.exact.pairs import FloatMath


class Floats(FloatMath[int]):
    """Operations of one name, short to write."""

    def __init__(self, ctx: LiteContext, name: str) -> None:
        """``name`` is that of the tensor that is computed."""
        self._ctx, self._name = ctx, name

    def of(self, operator: str, *operands: int) -> int:
        """An operation of tensors."""
        return step(self._ctx, self._name, operator.upper(), operands)

    def with_number(self, operator: str, operand: int, number: float) -> int:
        """An operation of a tensor and a number."""
        return with_number(self._ctx, self._name, operator.upper(), operand, number)

    def constant(self, like: int, number: float) -> int:
        """A number of the rank of a tensor."""
        ones = [1] * len(self._ctx.file.shapes[like])
        return self._ctx.file.constant("number", np.full(ones, number, np.float32))

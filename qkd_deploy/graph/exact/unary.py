"""Portable output scales of the functions of one quantized tensor that the runtime computes in float32."""

from __future__ import annotations

import math

import numpy as np

from qkd_deploy.graph.exact.add_scale import CodeRange, no_portable_scale
from qkd_deploy.graph.exact.unary_scale import Doubles, portable_unary_scale

_SIGMOID_ERROR = 2e-6
"""Bound on what approximations of the sigmoid, and of exponentials up to 1, in float32 are off by."""
NOTHING = 6.0
"""An exponential so far below the largest, 1/403, has code 0 on a scale of 1/128, wherever exactly it lies."""
_MOST_VALUES = 2**15
"""Among so many values there is always one near a tie."""
_FLOAT32_ERROR = 2.0**-22
"""The same for a few exact operations, relative to the largest value."""


def sigmoid(x: Doubles) -> Doubles:
    """``1 / (1 + exp(-x))``, element by element."""
    with np.errstate(over="ignore"):  # of which 0 comes, as it should
        result: Doubles = 1 / (1 + np.exp(-x))
    return result


def sigmoid_scale(source: CodeRange, out: CodeRange, name: str) -> float:
    """Find an output scale for ``sigmoid``; raises ``UserError`` where there is none."""
    return portable_unary_scale(sigmoid, source, out, _SIGMOID_ERROR, name)


def exponential_scale(source: CodeRange, out: CodeRange, name: str) -> float:
    """Find one for exponentials of codes less the row's largest; raises ``UserError`` where there is none."""
    least = max(source.lo - source.hi, -math.ceil(NOTHING / source.scale))
    if -least > _MOST_VALUES:  # offsets of scores spread over too many of their steps
        raise no_portable_scale(name)
    below = CodeRange(source.scale, 255, least, 0)
    return portable_unary_scale(np.exp, below, out, _SIGMOID_ERROR, name)


def leaky_scale(slope: float, source: CodeRange, out: CodeRange, name: str) -> float:
    """Find one for ``leaky_relu``; raises ``UserError`` where there is none."""

    def leaky(x: Doubles) -> Doubles:
        result: Doubles = np.where(x < 0, x * np.float32(slope), x)
        return result

    largest = source.scale * max(-source.lo, source.hi) * max(1.0, abs(slope))
    return portable_unary_scale(leaky, source, out, _FLOAT32_ERROR * largest, name)

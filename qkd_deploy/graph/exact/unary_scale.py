"""An output scale for a function of one quantized tensor on which all CPUs agree.

A function of 8-bit codes is a table of at most 256 entries, whoever computes it. Runtimes compute the entries in
float32, some with approximations that differ between CPUs (sigmoid, tanh, erf). The codes differ only where an entry is
nearer to a rounding tie than the approximation's error; the scale is moved until no entry is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qkd_deploy.graph.exact.add_scale import CodeRange, no_portable_scale

_MAX_NUDGE = 1 << 18  # units in the last place: 1.6 to 3.1 percent
_PARTS = 64  # of the candidates; nearly always the first part has a safe one
_ROUNDINGS = 2.0**-22  # of the division and of adding the zero point, relative to the stored code

Doubles = npt.NDArray[np.float64]


def portable_unary_scale(
    function: Callable[[Doubles], Doubles], source: CodeRange, out: CodeRange, error: float, name: str
) -> float:
    """The float32 output scale nearest to ``out.scale`` on which no code depends on how the function is computed.

    Args:
        function: the function in float64, element by element.
        source: the operand's codes.
        out: the result's codes; its scale is the one to start from.
        error: bound on the absolute error of the function's values on any CPU.
        name: of the tensor, for the message.

    Raises:
        UserError: no such scale nearby: the steps are hardly larger than the error.
    """
    values = table_values(function, source)
    for scales in np.array_split(_nudged(out.scale), _PARTS):
        safe = _distance_to_ties(values, scales[:, None], out).min(axis=1) > error
        if safe.any():
            return float(scales[safe.argmax()])
    raise no_portable_scale(name)


def _nudged(scale: float) -> Doubles:
    """``scale`` as float32, then its neighbours on both sides, in strides that grow with the distance."""
    sizes = np.unique(np.geomspace(1, _MAX_NUDGE, 1024).astype(np.int32))
    nudges = np.concatenate([np.zeros(1, np.int32), np.stack([sizes, -sizes], axis=1).ravel()])
    return (np.float32(scale).view(np.int32) + nudges).view(np.float32).astype(np.float64)


def table_values(function: Callable[[Doubles], Doubles], source: CodeRange) -> Doubles:
    """The function's values at the dequantized float32 values of every code, in ascending order of the codes."""
    codes = np.arange(source.lo, source.hi + 1, dtype=np.float32)
    return function((codes * np.float32(source.scale)).astype(np.float64))


def _distance_to_ties(values: Doubles, scale: Doubles, out: CodeRange) -> Doubles:
    """How far each value is from the nearest one at which its code changes, less what the quantizer itself rounds."""
    steps = values / scale
    ties = np.clip(np.floor(steps) + 0.5, out.lo + 0.5, out.hi - 0.5)
    distance: Doubles = (np.abs(steps - ties) - _ROUNDINGS * (np.abs(ties) + out.zero_point)) * scale
    return distance

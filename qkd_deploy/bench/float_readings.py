"""What export rewrote for integer kernels, in float: tables, codes read on another grid, folded convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

_ROUNDING = 1e-6


class CodeGrid(NamedTuple):
    """Scale and zero point of codes."""

    scale: float
    zero_point: int

    def equals(self, other: CodeGrid) -> bool:
        """Whether codes stand for the same values, but for the rounding of a scale that was a product."""
        return self.zero_point == other.zero_point and abs(self.scale / other.scale - 1) < _ROUNDING

    def floats(self, codes: np.ndarray) -> np.ndarray:
        """Real values of stored codes."""
        return np.asarray((codes.astype(np.float64) - self.zero_point) * self.scale, np.float32)


def table_function(lookup: onnx.NodeProto, source: str) -> onnx.NodeProto:
    """The operator whose values a table called ``<tensor>.<operator>.table`` holds, applied to ``source``.

    Parameters of functions are not in the file: they take their defaults, and a power is a square.
    """
    operator = lookup.input[0].rsplit(".", 2)[-2]
    if operator == "Pow":
        return helper.make_node("Mul", [source, source], lookup.output, lookup.name)
    return helper.make_node(operator, [source], lookup.output, lookup.name)


def read_otherwise(
    source: str, output: str, made: CodeGrid, read: CodeGrid, producers: Mapping[str, onnx.NodeProto]
) -> onnx.NodeProto:
    """A node for codes of ``source`` made on one grid and read on another.

    With one zero point, or for rows of codes (step 1) that a LayerNorm moves anyway, that is a multiplication.
    Otherwise a sigmoid of the doubled operand is read as its hyperbolic tangent, or the saturation of the codes is a
    hard sigmoid.
    """
    factor = read.scale / made.scale
    if made.zero_point == read.zero_point or read.scale == 1:
        return helper.make_node("Mul", [source, f"{output}.factor"], [output], f"{output}/Mul")
    sigmoid = producers.get(source)
    if sigmoid is not None and sigmoid.op_type == "Sigmoid":
        doubled = producers[sigmoid.input[0]]
        return helper.make_node("Tanh", [doubled.input[0]], [output], f"{output}/Tanh")
    offset = (made.zero_point - read.zero_point) * read.scale
    return helper.make_node("HardSigmoid", [source], [output], f"{output}/HardSigmoid", alpha=factor, beta=offset)


def unfolded(weight: np.ndarray, attributes: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Undo the folding of 2x2 pixels into channels: weights [out, C, k, k] and attributes of the stride-2 convolution.

    The kernel comes back without the rows and columns of zeros that folding added.
    """
    out, channels, height, width = weight.shape
    blocks = weight.reshape(out, 2, 2, channels // 4, height, width).transpose(0, 3, 4, 2, 5, 1)
    plain = blocks.reshape(out, channels // 4, 2 * height, 2 * width)
    pads = [2 * pad for pad in attributes["pads"]]
    for axis in (2, 3):
        for end, line in ((axis - 2, 0), (axis, -1)):
            if pads[end] and not plain.take(line, axis).any():
                plain = np.delete(plain, line, axis)
                pads[end] -= 1
    made = {**attributes, "kernel_shape": list(plain.shape[2:]), "strides": [2, 2], "pads": pads}
    return np.ascontiguousarray(plain), made

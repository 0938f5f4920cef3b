"""Linear layers on tokens as convolutions over an image of one row, which holds the tokens of all samples.

The runtime keeps channels last in convolutions, so that it drops the transpositions around them, and rounds their sums
while they are in registers: a fifth faster than QGemm, code by code the same. The reshapes keep it from moving the
transpositions elsewhere before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.quantized_graph import QuantizedGraph
from qkd_deploy.graph.ir import Node

POINTWISE: dict[str, Any] = {
    "kernel_shape": [1, 1],
    "strides": [1, 1],
    "pads": [0, 0, 0, 0],
    "dilations": [1, 1],
    "group": 1,
}
IMAGE = ".tokens"
CHANNELS_FIRST, CHANNELS_LAST = ".channels_first", ".channels_last"
"""Ends of the names of a layer's input and of the transpositions around it."""


class Tokens(QuantizedGraph):
    """What comes before and after such a layer, on codes."""

    def _image_of_tokens(self, node: Node) -> ir.Value:
        """The operand as an image, dequantized."""
        name, b = node.name, self.builder
        operand = node.inputs[0]
        features = (self.frozen.graph.node(operand).shape or ())[-1]
        sizes = b.constant(f"{name}.row_shape", np.array([1, 1, -1, features], np.int64))
        row = b.add("Reshape", [self._codes(operand), sizes], f"{name}.row", node=f"{name}.rows")
        order = {"perm": [0, 3, 1, 2]}
        image = b.add("Transpose", [row], f"{name}.image", node=f"{name}{CHANNELS_FIRST}", attributes=order)
        constants = self._grid_constants(*self.grids[operand])
        return b.add("DequantizeLinear", [image, *constants], f"{name}{IMAGE}", node=f"{name}{IMAGE}")

    def _back_to_tokens(self, node: Node, codes: ir.Value) -> ir.Value:
        """Codes of such a layer in the shape of its tensor; all others as they are."""
        if not node.is_on_tokens:
            return codes
        name, b, order = node.name, self.builder, {"perm": [0, 2, 3, 1]}
        row = b.add("Transpose", [codes], f"{name}.made", node=f"{name}{CHANNELS_LAST}", attributes=order)
        shape = b.constant(f"{name}.shape", np.array(node.open_shape, np.int64))
        return b.add("Reshape", [row, shape], f"{name}.stored", node=f"{name}.columns")

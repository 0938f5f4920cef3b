"""Linear layers on tokens as convolutions over an image of one row, which holds the tokens of all samples.

The runtime keeps channels last in convolutions, so that it drops the transpositions around them, and rounds their sums
while they are in registers: a fifth faster than QGemm, code by code the same (decision 13). The reshapes keep it from
moving the transpositions elsewhere before.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.graph.ir import Node

POINTWISE: dict[str, Any] = {
    "kernel_shape": [1, 1],
    "strides": [1, 1],
    "pads": [0, 0, 0, 0],
    "dilations": [1, 1],
    "group": 1,
}
"""Attributes of a convolution that mixes the features of every token."""


def image_of_tokens(ctx: EmitContext, node: Node) -> ir.Value:
    """The operand of a layer, ``[..., features]``, as an image ``[1, features, 1, tokens]``; moved as codes."""
    name, b, operand = node.name, ctx.builder, node.inputs[0]
    sizes = b.integers(f"{name}.row_shape", [1, 1, -1, ctx.shape(operand)[-1]])
    row = b.add("Reshape", [ctx.codes(operand), sizes], f"{name}.row", node=f"{name}.rows")
    order = {"perm": [0, 3, 1, 2]}
    image = b.add("Transpose", [row], f"{name}.image", node=f"{name}.channels_first", attributes=order)
    constants = ctx.scale_and_zero_point(*ctx.grids[operand])
    return b.add("DequantizeLinear", [image, *constants], f"{name}.tokens", node=f"{name}.tokens")


def tokens_of_image(ctx: EmitContext, node: Node, codes: ir.Value) -> ir.Value:
    """Codes of such a layer, ``[1, features, 1, tokens]``, in the shape of its tensor."""
    name, b, order = node.name, ctx.builder, {"perm": [0, 2, 3, 1]}
    row = b.add("Transpose", [codes], f"{name}.made", node=f"{name}.channels_last", attributes=order)
    shape = b.integers(f"{name}.shape", node.open_shape)
    return b.add("Reshape", [row, shape], f"{name}.stored", node=f"{name}.columns")

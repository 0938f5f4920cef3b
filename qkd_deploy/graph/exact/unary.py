"""Functions of one quantized tensor: grids on which every CPU computes the same codes.

Two functions are not computed at all, but read off codes that another function made ("relabelled"):

    hard_sigmoid(x) = clip(x / 6 + 1/2, 0, 1)    codes of x with step 6/256 and zero point 128, read with step 1/256
    tanh(x) = 2 * sigmoid(2 * x) - 1             codes of the sigmoid with step 1/256, read with step 2/256 around 128
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qkd_deploy.graph.exact.add_scale import CodeRange, portable_add_scale
from qkd_deploy.graph.exact.unary_scale import Doubles, portable_unary_scale
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.module_keys import module_key

RELABELLED = ("hard_sigmoid", "tanh")
_SIGMOID_ERROR = 2e-6
"""Bound on what approximations of the sigmoid, and of exponentials up to 1, in float32 are off by."""
_FLOAT32_ERROR = 2.0**-22
"""The same for a few exact operations, relative to the largest value."""


def before_key(node: Node) -> str:
    """Key of the grid that the codes of a relabelled tensor were made on."""
    return module_key(f"{node.name}.before")


def sigmoid_scale(source: CodeRange, out: CodeRange, name: str) -> float:
    """An output scale for ``sigmoid``; raises ``UserError`` where there is none."""
    return portable_unary_scale(_sigmoid, source, out, _SIGMOID_ERROR, name)


def exponential_scale(source: CodeRange, out: CodeRange, name: str) -> float:
    """An output scale for exponentials of codes less the row's largest; raises ``UserError`` where there is none."""
    below = CodeRange(source.scale, 255, source.lo - source.hi, 0)
    return portable_unary_scale(np.exp, below, out, _SIGMOID_ERROR, name)


def leaky_scale(slope: float, source: CodeRange, out: CodeRange, name: str) -> float:
    """An output scale for ``leaky_relu``; raises ``UserError`` where there is none."""

    def leaky(x: Doubles) -> Doubles:
        result: Doubles = np.where(x < 0, x * np.float32(slope), x)
        return result

    largest = source.scale * max(-source.lo, source.hi) * max(1.0, abs(slope))
    return portable_unary_scale(leaky, source, out, _FLOAT32_ERROR * largest, name)


def before_relabelling(kind: str, source: CodeRange, name: str) -> CodeRange:
    """The grid that the codes of ``hard_sigmoid`` or ``tanh`` are made on, from an operand's."""
    if kind == "hard_sigmoid":
        made = CodeRange(6 / 256, 128, -128, 127)
        scale = portable_add_scale(source, CodeRange(source.scale, source.zero_point, 0, 0), made, name)
        return CodeRange(scale, 128, -128, 127)
    doubled = CodeRange(2 * source.scale, source.zero_point, source.lo, source.hi)
    return CodeRange(sigmoid_scale(doubled, CodeRange(2.0**-8, 0, 0, 255), name), 0, 0, 255)


def relabelled(kind: str, before: CodeRange) -> CodeRange:
    """What the codes then stand for."""
    if kind == "hard_sigmoid":
        return CodeRange(2.0**-8, 0, 0, 255)
    return CodeRange(2 * before.scale, 128, -128, 127)


def made_codes(kind: str, x: Tensor, before_scale: Tensor) -> Tensor:
    """Codes on the grid before relabelling, not yet clipped; ``x`` are the operand's real values."""
    if kind == "hard_sigmoid":
        return torch.round(x / before_scale)
    return torch.round(torch.sigmoid(2 * x.double()) / before_scale.double()).float()


def _sigmoid(x: Doubles) -> Doubles:
    result: Doubles = 1 / (1 + np.exp(-x))
    return result

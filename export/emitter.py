"""Form of a row of ``EMITTERS``: how one kind of node is written in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.graph.ir import Node

Function = Callable[[EmitContext, Node], ir.Value]
"""Appends a node's operators to the graph and returns the value that stands for its tensor."""


@dataclass(frozen=True)
class Emitter:
    """How one kind of node is written.

    Attributes:
        function: appends the operators. It returns floats, behind which the walk puts the node's quantizer, if any.
        quantizes: ``function`` itself puts the quantizer of a node that has one, and returns the dequantized value.
    """

    function: Function
    quantizes: bool = False


def plain(operator: str, **attributes: Any) -> Emitter:
    """A row for a kind that is one ONNX operator of all its operands, with constant attributes."""

    def function(ctx: EmitContext, node: Node) -> ir.Value:
        return ctx.apply(node, operator, **attributes)

    return Emitter(function)

"""The table of all ONNX operators that the reference knows; each family is a file."""

from __future__ import annotations

import onnx

from qkd_deploy.verification.reference import (
    activations,
    arithmetic,
    concat,
    layers,
    matmul,
    movement,
    normalization,
    pooling,
)
from qkd_deploy.verification.reference.operator import Operator

FAMILIES = (layers, matmul, arithmetic, activations, normalization, pooling, concat, movement)
OPERATORS: dict[str, Operator] = {name: row for family in FAMILIES for name, row in family.OPERATORS.items()}
_UNKNOWN = Operator()
_DOMAINS = ("", "ai.onnx")


def row_of(node: onnx.NodeProto) -> Operator:
    """The row of a node's operator, without any entry for one that the reference does not know."""
    return OPERATORS.get(node.op_type, _UNKNOWN) if node.domain in _DOMAINS else _UNKNOWN

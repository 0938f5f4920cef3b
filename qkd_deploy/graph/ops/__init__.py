"""The contract: every kind of node, with every fact that the project knows about it, in one table.

``OPERATORS`` holds the rows by kind, in the order of the families' files; ``TORCH_OPS`` finds the row, or the rewrite
to other rows, of an operation of PyTorch's. Whatever is not listed stays in float, between quantized borders.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from qkd_deploy.graph.contract.operator import Operator, Rewrite
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import (
    activations,
    arithmetic,
    concat,
    constants,
    copying,
    float_ops,
    gates,
    indexing,
    layers,
    lookups,
    matmul,
    movement,
    normalization,
    pooling,
    reductions,
    whole_numbers,
)

FAMILIES = (
    constants,
    layers,
    arithmetic,
    matmul,
    concat,
    pooling,
    reductions,
    activations,
    lookups,
    gates,
    normalization,
    movement,
    indexing,
    copying,
    whole_numbers,
    float_ops,
)


def _rows() -> Iterator[Operator | Rewrite]:
    for family in FAMILIES:
        yield from family.ROWS


OPERATORS: dict[str, Operator] = {row.name: row for row in _rows() if isinstance(row, Operator)}
REWRITES: dict[str, Rewrite] = {row.name: row for row in _rows() if isinstance(row, Rewrite)}
TORCH_OPS: dict[Any, Operator | Rewrite] = {key: row for row in _rows() for key in row.torch}
"""Ways to write an operation -> its row; in-place variants are rewritten before (``trace.in_place``)."""

if len(OPERATORS) + len(REWRITES) != len(list(_rows())):
    raise TypeError("two rows of the contract have one name")
if any(TORCH_OPS[key] is not row for row in _rows() for key in row.torch):
    raise TypeError("two rows of the contract stand for one operation of PyTorch's")


def operator_of(node: Node) -> Operator:
    """The row of a node's kind."""
    return OPERATORS[node.kind]


def apply(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], *, training: bool) -> Any:
    """Evaluate a node on floats; ``network`` holds the user's modules and parameters.

    Layers are evaluated without their batch norms, and all nodes without their clips and quantizers.
    """
    return OPERATORS[node.kind].floats(network, node, args, kwargs, training)

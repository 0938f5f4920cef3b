"""How every kind of node is written in a ``.tflite`` file: one table, joined from one file a family."""

from collections.abc import Callable

from qkd_deploy.export.litert.context import LiteContext, Value
from qkd_deploy.export.litert.ops import (
    arithmetic,
    borders,
    ends,
    functions,
    layers,
    movement,
    pooling,
    products,
    rows,
    upsampling,
)
from qkd_deploy.graph.ir import Node

EMITTERS: dict[str, Callable[[LiteContext, Node], Value]] = {
    "input": ends.emit_input,
    **layers.EMITTERS,
    **arithmetic.EMITTERS,
    **functions.EMITTERS,
    **pooling.EMITTERS,
    **upsampling.EMITTERS,
    **movement.EMITTERS,
    **products.EMITTERS,
    **rows.EMITTERS,
    **borders.EMITTERS,
}
"""By kind of node; what is not here is named at export."""

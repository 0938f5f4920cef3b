"""Whole numbers and booleans that become floats: masks, class ids, and pixels as a camera gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qkd_deploy.graph.contract.evaluation import kernel, output_grid, plain
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.contract.operator import Frozen, Operands, Operator
from qkd_deploy.graph.contract.signs import nonnegative
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams

_BYTES = (torch.uint8, torch.bool)


def lower_to_floats(low: Lowering, node: Node) -> bool:
    """Make a call that only turns whole numbers into float32 one of these kinds; False for every other call."""
    source = low.dtype(node.args[0])
    if source is None or source.is_floating_point or source.is_complex or node.dtype != torch.float32:
        return False
    low.become(node, BYTE_VALUES if source in _BYTES else WHOLE_NUMBERS, (node.args[0],))
    return True


def _float(x: Tensor) -> Tensor:
    return x.float()


def _own_codes(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Bytes are their own codes: the scale is 1, the zero point 0."""
    grid = output_grid(frozen, node)
    return None if grid is None else QuantizedTensor(args[0].float(), grid)


def _quantized(grid: QuantParams, x: Tensor) -> Tensor:
    return grid.quantize(x.float())


BYTE_VALUES = Operator(
    name="byte_values",
    docs="bytes or booleans as floats; their codes are their values",
    kernel="",
    operands=Operands.NONE,
    own_scale=True,
    step=1.0,
    sign=nonnegative,
    floats=plain(_float),
    integers=_own_codes,
    internal=True,
)
WHOLE_NUMBERS = Operator(
    name="whole_numbers",
    docs="whole numbers of more than a byte, or with a sign, as floats",
    kernel="QuantizeLinear",
    operands=Operands.NONE,
    own_scale=True,
    floats_at_the_end=True,
    floats=plain(_float),
    integers=kernel(_quantized),
    internal=True,
)
ROWS = (BYTE_VALUES, WHOLE_NUMBERS)

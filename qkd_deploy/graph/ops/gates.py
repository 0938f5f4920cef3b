"""Sigmoid, its hard form, and tanh: functions with a known range, and so with a fixed scale.

Two of them are not computed at all, but read off codes that another function made:

    hard_sigmoid(x) = clip(x / 6 + 1/2, 0, 1)    codes of x with step 6/256 and zero point 128, read with step 1/256
    tanh(x) = 2 * sigmoid(2 * x) - 1             codes of the sigmoid with step 1/256, read with step 2/256 around 128
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import kernel, output_grid, plain
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.contract.operator import Frozen, Operands, Operator, Relabelling, Sign, Tail
from qkd_deploy.graph.contract.signs import as_operands, nonnegative
from qkd_deploy.graph.exact.add_scale import CodeRange, portable_add_scale
from qkd_deploy.graph.exact.unary import sigmoid, sigmoid_scale
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.module_keys import before_key
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams


def _of_one_tensor(name: str) -> Callable[[Lowering, Node, Any], None]:
    def lower(low: Lowering, node: Node, target: Any) -> None:
        low.become(node, BY_NAME[name], (node.args[0],))

    return lower


def _sigmoid_codes(grid: QuantParams, x: QuantizedTensor) -> Tensor:
    steps = torch.sigmoid(x.real().double()) / grid.scale.double()
    return torch.round(steps).clamp_(grid.lo, grid.hi).float()


def _sigmoid_scale(
    network: nn.Module, graph: Graph, node: Node, operands: Sequence[CodeRange], out: CodeRange
) -> float:
    return sigmoid_scale(operands[0], out, node.name)


def _read_off(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The stored codes stay as they were made; what they stand for changes."""
    grid, x = output_grid(frozen, node), args[0]
    if grid is None:
        return None
    assert operator.relabelling is not None
    before = frozen.grid(before_key(node.name))
    made = operator.relabelling.make(x.real(), before.scale).clamp_(before.lo, before.hi)
    return QuantizedTensor(made + (before.zero_point - grid.zero_point), grid)


def _shifted(source: CodeRange, name: str) -> CodeRange:
    """The codes of x as an addition of zero makes them, with step 6/256."""
    made = CodeRange(6 / 256, 128, -128, 127)
    scale = portable_add_scale(source, CodeRange(source.scale, source.zero_point, 0, 0), made, name)
    return CodeRange(scale, 128, -128, 127)


def _sigmoid_of_double(source: CodeRange, name: str) -> CodeRange:
    doubled = CodeRange(2 * source.scale, source.zero_point, source.lo, source.hi)
    return CodeRange(sigmoid_scale(doubled, CodeRange(2.0**-8, 0, 0, 255), name), 0, 0, 255)


SIGMOID = Operator(
    name="sigmoid",
    docs="1 / (1 + exp(-x))",
    kernel="QLinearSigmoid",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.ALWAYS,
    floats=plain(torch.sigmoid),
    integers=kernel(_sigmoid_codes),
    torch=(nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid"),
    lower=_of_one_tensor("sigmoid"),
    step=2.0**-8,
    sign=nonnegative,
    slices=slice_rules.elements,
    portable_scale=_sigmoid_scale,
)
TANH = Operator(
    name="tanh",
    docs="tanh, read off the codes of a sigmoid",
    kernel="QLinearSigmoid",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.ALWAYS,
    floats=plain(torch.tanh),
    integers=_read_off,
    torch=(nn.Tanh, F.tanh, torch.tanh, "tanh"),
    lower=_of_one_tensor("tanh"),
    step=2.0**-7,
    slices=slice_rules.elements,
    relabelling=Relabelling(
        before=_sigmoid_of_double,
        after=lambda before: CodeRange(2 * before.scale, 128, -128, 127),
        make=lambda x, scale: torch.round(torch.sigmoid(2 * x.double()) / scale.double()).float(),
    ),
)
HARD_SIGMOID = Operator(
    name="hard_sigmoid",
    docs="clip(x / 6 + 1/2, 0, 1), read off the codes of x",
    kernel="QLinearAdd",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.ALWAYS,
    floats=plain(F.hardsigmoid),
    integers=_read_off,
    torch=(nn.Hardsigmoid, F.hardsigmoid),
    lower=_of_one_tensor("hard_sigmoid"),
    step=2.0**-8,
    sign=nonnegative,
    slices=slice_rules.elements,
    relabelling=Relabelling(
        before=_shifted,
        after=lambda before: CodeRange(2.0**-8, 0, 0, 255),
        make=lambda x, scale: torch.round(x / scale),
    ),
)
ROWS = (SIGMOID, TANH, HARD_SIGMOID)
BY_NAME: Mapping[str, Operator] = {row.name: row for row in ROWS}


def _hard_sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.clip(x / 6 + 0.5, 0, 1)


GATES: Mapping[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    SIGMOID.name: sigmoid,
    HARD_SIGMOID.name: _hard_sigmoid,
}
"""Functions that a tensor is multiplied by, in float64."""


# -- products with gates ----------------------------------------------------------------------------------------------

MARGIN = 1e-3
"""Of lower bounds, in steps of the result; far more than float32 kernels are off by."""


def sign_of_product(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    """A tensor times a gate that it opens itself (SiLU, hard swish) is never far below zero."""
    sign = as_operands(node, operands, network, graph)
    if sign is Sign.SIGNED and any(_opens(graph, node, name) for name in node.inputs):
        return Sign.MOSTLY_POSITIVE
    return sign


def _opens(graph: Graph, node: Node, name: str) -> bool:
    gate = graph.node(name)
    return gate.kind in GATES and gate.inputs[0] in node.inputs


def least_product(graph: Graph, node: Node, operands: Sequence[CodeRange]) -> float | None:
    """The smallest product; of a tensor with a gate that it opens itself the smallest of those."""
    if len(operands) != 2:
        return None
    names = node.inputs
    for x, gate in ((0, 1), (1, 0)):
        if len(names) == 2 and _is_own_gate(graph.node(names[gate]), names[x]):
            return _least_gated(graph.node(names[gate]).kind, operands[x], operands[gate].scale)
    ends = [(codes.lo * codes.scale, codes.hi * codes.scale) for codes in operands]
    return min(a * b for a, b in product(*ends))


def _is_own_gate(gate: Node, opener: str) -> bool:
    return gate.kind in GATES and gate.inputs == [opener] and gate.clip is None


def _least_gated(gate: str, x: CodeRange, step: float) -> float:
    """The smallest of ``x * gate(x)`` over all codes of x, with gates rounded up to their own scale."""
    values = np.arange(x.lo, x.hi + 1, dtype=np.float64) * x.scale
    gates = np.floor(GATES[gate](values) / step + 0.5 + MARGIN) * step
    return float((values * gates).min())

"""Sums and products of tensors, numbers and constants, element by element.

A factor that is a positive number costs nothing: the codes stay, their scale changes ("rescale"). Other numbers and
constant tensors are quantized like activations, with a scale of their own.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import kernel, plain, requantized
from qkd_deploy.graph.contract.lowering import Lowering, is_number
from qkd_deploy.graph.contract.operator import Frozen, Operands, Operator, Rewrite, StaysInFloat, Tail, refuse_if
from qkd_deploy.graph.contract.signs import as_operands, sum_of_operands
from qkd_deploy.graph.exact.add_scale import CodeRange, portable_add_scale
from qkd_deploy.graph.exact.mul_scale import portable_mul_scale
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops.constants import constant, fixed_number, fixed_tensor
from qkd_deploy.graph.ops.gates import HARD_SIGMOID, least_product, sign_of_product
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams

_TWO = ("input", "other", "alpha")


# -- scales ------------------------------------------------------------------------------------------------------------


def sum_scale(network: nn.Module, graph: Graph, node: Node, operands: Sequence[CodeRange], out: CodeRange) -> float:
    """Make the scale of ``a + b`` portable; ``x + x`` has one operand twice."""
    return portable_add_scale(operands[0], operands[-1], out, node.name)


def requantized_scale(
    network: nn.Module, graph: Graph, node: Node, operands: Sequence[CodeRange], out: CodeRange
) -> float:
    """Make the scale of a requantization portable: it is an addition of zero on the operand's own scale."""
    a = operands[0]
    return portable_add_scale(a, CodeRange(a.scale, a.zero_point, 0, 0), out, node.name)


def _product_scale(
    network: nn.Module, graph: Graph, node: Node, operands: Sequence[CodeRange], out: CodeRange
) -> float:
    return portable_mul_scale(operands[0], operands[-1], out, node.name)


def least_of_operand(graph: Graph, node: Node, operands: Sequence[CodeRange]) -> float:
    """Results are no smaller than the operand's smallest value, or than padding with zeros."""
    return operands[0].scale * min(operands[0].lo, 0)


# -- sums --------------------------------------------------------------------------------------------------------------


def _lower_add(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _TWO, input=None, other=None, alpha=1)
    one, two, factor = bound["input"], bound["other"], bound["alpha"]
    if factor != 1:
        scalable = is_number(factor) and factor and low.is_activation(two)
        refuse_if(not scalable, "a sum with a factor that is zero or computed stays in float")
        two = times(low, node, Ref(two.name), float(factor), "scaled")
    _binary(low, node, ADD, one, two)


def _lower_sub(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _TWO, alpha=1)
    refuse_if(bound["alpha"] != 1, "ONNX Runtime subtracts only two tensors in integers, without a factor")
    _subtract(low, node, bound.get("input"), bound.get("other"))


def _lower_rsub(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _TWO)
    _subtract(low, node, bound.get("other"), bound.get("input"))


def _subtract(low: Lowering, node: Node, one: Any, two: Any) -> None:
    """``one - two`` as a sum: numbers and fixed constants change their sign, tensors are multiplied by -1."""
    one, two = low.without_batch_copies((one, two))
    fixed = fixed_tensor(low, two)
    if is_number(two):
        negative: Any = -float(two)
    elif fixed is not None:
        negative = constant(low, node, -fixed, "negative")
    elif low.is_float(two):
        negative = times(low, node, two, -1.0, "negative")
    else:
        raise StaysInFloat("a subtraction of integer tensors stays in float")
    _binary(low, node, ADD, one, negative)


# -- products ----------------------------------------------------------------------------------------------------------


def _lower_mul(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _TWO)
    one, two = bound.get("input"), bound.get("other")
    if isinstance(one, (int, float)):
        one, two = two, one
    if isinstance(two, (int, float)):
        _multiply_by(low, node, one, float(two))
    else:
        _binary(low, node, MUL, one, two)


def _lower_neg(low: Lowering, node: Node, target: Any) -> None:
    _multiply_by(low, node, node.args[0], -1.0)


def _lower_div(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _TWO)
    one, two = bound.get("input"), bound.get("other")
    refuse_if(node.kwargs.get("rounding_mode") is not None, "a division that rounds stays in float")
    if is_number(two) and two:
        _multiply_by(low, node, one, 1 / float(two))
        return
    fixed = fixed_tensor(low, two)
    if fixed is None or not bool(torch.isfinite(1 / fixed).all()):
        raise StaysInFloat("ONNX Runtime has no integer Div")
    _binary(low, node, MUL, one, constant(low, node, 1 / fixed, "reciprocal"))


def _multiply_by(low: Lowering, node: Node, operand: Any, factor: float) -> None:
    """A positive factor only changes the scale; another one is a constant."""
    refuse_if(
        not low.is_activation(operand) or not math.isfinite(factor), "a product of integers or constants stays in float"
    )
    shifted = _hard_sigmoid_operand(low, operand, factor)
    if shifted is not None:
        low.become(node, HARD_SIGMOID, (shifted,))
    elif factor > 0:
        low.become(node, RESCALE, (operand,), factor=factor)
    else:
        _binary(low, node, MUL, operand, factor)


def _hard_sigmoid_operand(low: Lowering, operand: Ref, factor: float) -> Ref | None:
    """Find x in ``relu6(x + 3) / 6``, a hard sigmoid as it was written before PyTorch had the function."""
    clip = low.graph.node(operand.name)
    if clip.kind != "clip" or clip.clip != (0.0, 6.0) or not math.isclose(factor, 1 / 6, rel_tol=1e-6):
        return None
    shifted = low.graph.node(clip.inputs[0])
    if shifted.kind != ADD.name or fixed_number(low, shifted.args[1]) != 3.0:
        return None
    x: Ref = shifted.args[0]
    return x


def times(low: Lowering, node: Node, operand: Ref, factor: float, suffix: str) -> Ref:
    """Put ``operand * factor`` in front of a node: another scale, or a product with a constant."""
    shape = low.shape(operand)
    if factor > 0:
        return low.insert_before(node, RESCALE, (operand,), suffix, shape, kwargs={"factor": factor})
    number = constant(low, node, torch.tensor(factor), f"{suffix}_factor")
    return low.insert_before(node, MUL, (operand, number), suffix, shape)


def _binary(low: Lowering, node: Node, kind: Operator, one: Any, two: Any) -> None:
    """Make a node the sum or product of two tensors; numbers become constants, which stand on the right."""
    operands = low.without_batch_copies(
        tuple(
            constant(low, node, torch.tensor(float(operand)), suffix) if is_number(operand) else operand
            for operand, suffix in ((one, "left"), (two, "right"))
        )
    )
    word = "an addition" if kind is ADD else "a product"
    refuse_if(not all(low.is_float(operand) for operand in operands), f"{word} of integer tensors stays in float")
    computed = [low.is_activation(operand) for operand in operands]
    refuse_if(not any(computed), f"{word} of constants stays in float")
    low.become(node, kind, operands if computed[0] else operands[::-1])


# -- rows --------------------------------------------------------------------------------------------------------------


def _rescaled(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The codes stay; what they stand for is multiplied."""
    x = args[0]
    return QuantizedTensor(x.codes, frozen.grid(module_key(node.name))) if isinstance(x, QuantizedTensor) else None


def _added(grid: QuantParams, a: QuantizedTensor, b: QuantizedTensor) -> Tensor:
    return grid.quantize(a.real() + b.real())


def _multiplied(grid: QuantParams, a: QuantizedTensor, b: QuantizedTensor) -> Tensor:
    return grid.quantize(a.real() * b.real())


ADD = Operator(
    name="add",
    docs="the sum of two tensors",
    kernel="QLinearAdd",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.BESIDE_OTHERS,
    floats=plain(torch.add),
    integers=kernel(_added),
    torch=(operator.add, torch.add, "add"),
    lower=_lower_add,
    sign=sum_of_operands,
    absorbs_clip=True,
    slices=slice_rules.broadcast,
    portable_scale=sum_scale,
)
MUL = Operator(
    name="mul",
    docs="the product of two tensors",
    kernel="QLinearMul",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.BESIDE_OTHERS,
    floats=plain(torch.mul),
    integers=kernel(_multiplied),
    torch=(operator.mul, torch.mul, torch.multiply, "mul", "multiply"),
    lower=_lower_mul,
    sign=sign_of_product,
    absorbs_clip=True,
    slices=slice_rules.broadcast,
    portable_scale=_product_scale,
    lower_bound=least_product,
)
RESCALE = Operator(
    name="rescale",
    docs="a tensor times a positive number",
    kernel="",
    operands=Operands.CODES,
    own_scale=False,
    tail=Tail.BESIDE_OTHERS,
    floats=plain(lambda x, factor: x * factor),
    integers=_rescaled,
    sign=as_operands,
    scale_factor=lambda node: float(node.kwargs["factor"]),
    slices=slice_rules.elements,
    internal=True,
)
REQUANTIZE = Operator(
    name="requantize",
    docs="the same tensor with fewer bits, for readers that need fewer",
    kernel="QLinearAdd",
    operands=Operands.CODES,
    own_scale=True,
    floats=plain(lambda x: x),
    integers=kernel(requantized),
    sign=as_operands,
    portable_scale=requantized_scale,
    lower_bound=least_of_operand,
    internal=True,
)
ROWS = (
    ADD,
    MUL,
    RESCALE,
    REQUANTIZE,
    Rewrite(
        name="sub",
        becomes="an addition",
        torch=(operator.sub, torch.sub, torch.subtract, "sub", "subtract"),
        lower=_lower_sub,
    ),
    Rewrite(name="rsub", becomes="an addition", torch=(torch.rsub, "rsub"), lower=_lower_rsub),
    Rewrite(
        name="div",
        becomes="a factor, for a constant divisor",
        torch=(operator.truediv, torch.div, torch.divide, torch.true_divide, "div", "divide"),
        lower=_lower_div,
    ),
    Rewrite(
        name="neg",
        becomes="a factor",
        torch=(operator.neg, torch.neg, torch.negative, "neg", "negative"),
        lower=_lower_neg,
    ),
)
NEUTRAL: dict[Any, int] = {
    **dict.fromkeys((operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div"), 1),
    **dict.fromkeys((operator.add, torch.add, "add", operator.sub, torch.sub, "sub"), 0),
}
"""Second operands with which an operation changes nothing."""


def is_neutral(node: Node, key: Any) -> bool:
    """True for ``x * 1``, ``x + 0`` and the like."""
    neutral = NEUTRAL.get(key)
    if neutral is None or len(node.args) != 2 or node.kwargs:
        return False
    return isinstance(node.args[1], (int, float)) and node.args[1] == neutral

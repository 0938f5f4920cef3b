"""Products of two activations, and attention, which is made of them."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import kernel, plain
from qkd_deploy.graph.contract.lowering import Lowering, is_number
from qkd_deploy.graph.contract.operator import Operands, Operator, Rewrite, StaysInFloat, refuse_if
from qkd_deploy.graph.contract.signs import as_operands, sum_of_operands
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.arithmetic import ADD, times
from qkd_deploy.graph.ops.constants import constant
from qkd_deploy.graph.ops.float_ops import FLOAT_OP
from qkd_deploy.graph.ops.movement import TRANSPOSE
from qkd_deploy.graph.ops.normalization import SOFTMAX
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams

_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
_NO_PRODUCT = "only an einsum that is one batched matrix product of two activations runs in integers"


# -- products ----------------------------------------------------------------------------------------------------------


def _lower_matmul(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "other"))
    operands = (bound.get("input"), bound.get("other", bound.get("mat2")))
    refuse_if(
        not all(low.is_float(operand) for operand in operands) or not low.is_activation(operands[0]),
        "a matrix product whose left operand is constant stays in float",
    )
    refuse_if(
        min(low.rank(operand) for operand in operands) < 2, "a matrix product with a vector has no integer kernel here"
    )
    low.become(node, MATMUL, operands)


def _matmul_codes(grid: QuantParams, a: QuantizedTensor, b: QuantizedTensor) -> Tensor:
    sums = torch.matmul(a.codes.double(), b.codes.double()).float()
    return sums.mul_(a.grid.scale * b.grid.scale / grid.scale).clamp_(grid.lo, grid.hi).round_()


def weighted_mean(weights: Tensor, values: Tensor, undropped: Tensor) -> Tensor:
    """Mean of the rows of ``values``; weights that dropout removed count in the sum that divides."""
    return (weights @ values) / undropped.sum(-1, keepdim=True)


def _weighted_mean_codes(
    grid: QuantParams, weights: QuantizedTensor, values: QuantizedTensor, undropped: QuantizedTensor
) -> Tensor:
    """The step of the weights stands in both sums and cancels."""
    sums = torch.matmul(weights.codes.double(), values.codes.double()).float()
    means = sums / undropped.codes.double().sum(-1, keepdim=True).float()
    return torch.round(means / (grid.scale / values.grid.scale)).clamp_(grid.lo, grid.hi)


# -- einsum ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Equation:
    """Letters of an einsum of two operands, by what happens to them."""

    left: str
    right: str
    result: str

    @property
    def shared(self) -> list[str]:
        return [c for c in self.left if c in self.right and c in self.result]

    @property
    def rows(self) -> list[str]:
        return [c for c in self.left if c not in self.right and c in self.result]

    @property
    def columns(self) -> list[str]:
        return [c for c in self.right if c not in self.left and c in self.result]

    @property
    def summed(self) -> list[str]:
        return [c for c in self.left if c in self.right and c not in self.result]

    @property
    def is_product(self) -> bool:
        """True where every letter is one of those, and of the last three there is one each."""
        letters = {*self.shared, *self.rows, *self.columns, *self.summed}
        distinct = all(len(set(part)) == len(part) for part in (self.left, self.right, self.result))
        own = (len(self.rows), len(self.columns), len(self.summed))
        return distinct and own == (1, 1, 1) and letters == {*self.left, *self.right} and letters >= {*self.result}


def _lower_einsum(low: Lowering, node: Node, target: Any) -> None:
    """A batched matrix product, where each operand has at most one dimension of its own and one is summed over."""
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    spelled = re.fullmatch(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)", str(equation).replace(" ", ""))
    if spelled is None or len(operands) != 2 or not all(map(low.is_activation, operands)):
        raise StaysInFloat(_NO_PRODUCT)
    letters = _Equation(*spelled.groups())
    refuse_if(not letters.is_product, _NO_PRODUCT)
    one, two = operands
    for c in (*letters.shared, *letters.summed):  # a single element would be repeated
        refuse_if(low.shape(one)[letters.left.index(c)] != low.shape(two)[letters.right.index(c)], _NO_PRODUCT)
    _multiply_turned(low, node, letters, one, two)


def _multiply_turned(low: Lowering, node: Node, letters: _Equation, one: Ref, two: Ref) -> None:
    """Turn both operands so that a matrix product multiplies them, and its result back."""
    sizes = dict(zip(letters.left, low.shape(one), strict=True)) | dict(zip(letters.right, low.shape(two), strict=True))
    batches = {c for i, c in enumerate(letters.result) if i in node.batch_dims}

    def described(want: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(sizes[c] for c in want), tuple(i for i, c in enumerate(want) if c in batches)

    def turned(operand: Ref, have: str, want: list[str], suffix: str) -> Ref:
        order = tuple(have.index(c) for c in want)
        if order == tuple(range(len(order))):
            return operand
        shape, follows = described(want)
        return low.insert_before(node, TRANSPOSE, (operand,), suffix, shape, kwargs={"dims": order}, batch_dims=follows)

    left = turned(one, letters.left, [*letters.shared, *letters.rows, *letters.summed], "left")
    right = turned(two, letters.right, [*letters.shared, *letters.summed, *letters.columns], "right")
    made = [*letters.shared, *letters.rows, *letters.columns]
    if "".join(made) == letters.result:
        low.become(node, MATMUL, (left, right))
        return
    shape, follows = described(made)
    product = low.insert_before(node, MATMUL, (left, right), "product", shape, batch_dims=follows)
    low.become(node, TRANSPOSE, (product,), dims=tuple(made.index(c) for c in letters.result))


# -- attention ---------------------------------------------------------------------------------------------------------


def _lower_attention(low: Lowering, node: Node, target: Any) -> None:
    """``softmax(q @ k^T * scale + mask) @ v``; a positive scale is free."""
    bound = low.bind(node, target, _ATTENTION, scale=None)
    query, key, value = bound["query"], bound["key"], bound["value"]
    refuse_if(node.kwargs.get("enable_gqa"), "attention whose heads share keys stays in float")
    mask = _mask(low, node, bound)
    refuse_if(low.shape(key)[-2] < 2, "attention to a single token stays in float")
    factor = low.shape(query)[-1] ** -0.5 if bound["scale"] is None else bound["scale"]
    refuse_if(not is_number(factor), "attention with a computed scale stays in float")
    scores = _scores(low, node, query, key)
    scaled = times(low, node, scores, float(factor), "scaled")
    if mask is not None:
        wider = torch.broadcast_shapes(low.shape(mask), low.shape(scores)) != low.shape(scores)  # type: ignore[no-untyped-call]
        refuse_if(wider, "attention of more masks than queries stays in float")
        scaled = low.insert_before(node, ADD, (scaled, mask), "masked", low.shape(scores))
    weights = low.insert_before(node, SOFTMAX, (scaled,), "softmax", low.shape(scores))
    low.become(node, MATMUL, (weights, value))


def _mask(low: Lowering, node: Node, bound: dict[str, Any]) -> Ref | None:
    """What is added to the scores: for True and False 0 and minus infinity; None where nothing is."""
    mask, (rows, columns) = bound.get("attn_mask"), (low.shape(bound[name])[-2] for name in ("query", "key"))
    if bound.get("is_causal"):
        return constant(low, node, additive_mask(torch.ones(rows, columns, dtype=torch.bool).tril()), "mask")
    if mask is None:
        return None
    refuse_if(
        low.tensor(mask) is None or low.depends_on_inputs(mask), "attention with a mask of the input's stays in float"
    )
    if low.is_float(mask):
        added: Ref = low.without_batch_copies((bound["query"], mask))[1]
        return added
    return low.insert_before(node, FLOAT_OP, (mask,), "mask", low.shape(mask), target=additive_mask)


def additive_mask(keeps: Tensor) -> Tensor:
    """What is added to scores: 0 where ``keeps`` is True, minus infinity elsewhere."""
    return torch.zeros(keeps.shape, device=keeps.device).masked_fill(~keeps, -torch.inf)


def _scores(low: Lowering, node: Node, query: Ref, key: Ref) -> Ref:
    """``q @ k^T``, the dimensions in front broadcast."""
    (*before, tokens, width), rank = low.shape(key), low.rank(key)
    order = {"dims": (*range(rank - 2), rank - 1, rank - 2)}
    turned = low.insert_before(
        node, TRANSPOSE, (key,), "keys", (*before, width, tokens), kwargs=order, batch_dims=low.batch_dims(key)
    )
    common = torch.broadcast_shapes(low.shape(query)[:-2], tuple(before))  # type: ignore[no-untyped-call]
    shape = (*common, low.shape(query)[-2], tokens)
    follows = {dim + len(shape) - low.rank(operand) for operand in (query, key) for dim in low.batch_dims(operand)}
    return low.insert_before(node, MATMUL, (query, turned), "scores", shape, batch_dims=tuple(sorted(follows)))


# -- rows --------------------------------------------------------------------------------------------------------------

MATMUL = Operator(
    name="matmul",
    docs="the product of matrices that are both computed",
    kernel="QLinearMatMul",
    operands=Operands.WIDE,
    own_scale=True,
    floats=plain(torch.matmul),
    integers=kernel(_matmul_codes),
    torch=(operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"),
    lower=_lower_matmul,
    sign=sum_of_operands,
    factor=1,
    sums_products=True,
    absorbs_clip=True,
    slices=slice_rules.product,
)
WEIGHTED_MEAN = Operator(
    name="weighted_mean",
    docs="the mean of rows, weighted by exponentials",
    kernel="MatMulInteger",
    operands=Operands.WIDE,
    own_scale=True,
    floats=plain(weighted_mean),
    integers=kernel(_weighted_mean_codes),
    sign=as_operands,
    sums_products=True,
    in_float="its sums are integers; they are divided by each other in float32: the same on every CPU",
    internal=True,
)
ROWS = (
    MATMUL,
    WEIGHTED_MEAN,
    Rewrite(
        name="attention",
        becomes="a product, a factor, exponentials and a weighted mean",
        torch=(F.scaled_dot_product_attention,),
        lower=_lower_attention,
    ),
    Rewrite(
        name="einsum",
        becomes="transpositions and one product of matrices",
        torch=(torch.einsum,),
        lower=_lower_einsum,
    ),
)

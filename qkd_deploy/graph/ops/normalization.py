"""Functions of rows: LayerNorm, softmax, the exponentials in it and means under it; batch norms with no layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import in_float, kernel, own_call, plain
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.contract.operator import Operands, Operator, StaysInFloat, Tail, refuse_if
from qkd_deploy.graph.contract.signs import as_operands, nonnegative
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.rows import (
    LONGEST_ROW,
    MOST_STEPS,
    eps_in_steps,
    halved,
    halvings,
    layer_norm,
    row_center,
    softmax_codes,
    sum_step,
    whole_steps,
)
from qkd_deploy.graph.exact.unary import exponential_scale
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.constants import own_constant, parameter
from qkd_deploy.graph.ops.movement import TRANSPOSE
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams, real
from qkd_deploy.graph.trace.derived_modules import BATCH_NORMS
from qkd_deploy.quantizers.base import round_straight_through

_SOFTMAX, _FUNCTIONAL_SOFTMAX = ("input", "dim", "dtype"), ("input", "dim", "_stacklevel", "dtype")
_LAYER_NORM = ("input", "normalized_shape", "weight", "bias", "eps")


# -- batch norms -------------------------------------------------------------------------------------------------------


def _lower_batch_norm(low: Lowering, node: Node, target: nn.Module) -> None:
    refuse_if(
        not getattr(target, "track_running_stats", True) or getattr(target, "running_mean", None) is None,
        "a batch norm without running statistics depends on the batch",
    )
    reason = node.reason  # it holds until a pass finds the norm a layer
    low.become(node, BATCH_NORM, (node.args[0],), target=str(node.target))
    node.reason = reason


# -- softmax -----------------------------------------------------------------------------------------------------------


def _lower_softmax(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _FUNCTIONAL_SOFTMAX if target is F.softmax else _SOFTMAX, dim=None, dtype=None)
    operand, shape, dim = node.args[0], node.sizes, bound["dim"]
    refuse_if(
        dim is None or not shape or bound["dtype"] not in (None, torch.float32, torch.float64),
        "a softmax of a single number, without a dimension, or in half precision stays in float",
    )
    dim, last = dim % len(shape), len(shape) - 1
    refuse_if(dim in node.batch_dims or shape[dim] < 2, "a softmax over the batch or over one element stays in float")
    if dim == last:
        low.become(node, SOFTMAX, (operand,))
    elif last in node.batch_dims:
        raise StaysInFloat("a softmax beside a batch in the last dimension stays in float")
    else:
        _turn_and_back(low, node, operand, dim)


def _turn_and_back(low: Lowering, node: Node, operand: Ref, dim: int) -> None:
    """Exchange a dimension and the last one, around a softmax of rows."""
    shape, last = node.sizes, len(node.sizes) - 1
    order = [*range(len(shape))]
    order[dim], order[last] = last, dim
    moved, turn = tuple(shape[d] for d in order), {"dims": tuple(order)}
    turned = low.insert_before(node, TRANSPOSE, (operand,), "turned", moved, kwargs=turn, batch_dims=node.batch_dims)
    shares = low.insert_before(node, SOFTMAX, (turned,), "softmax", moved, batch_dims=node.batch_dims)
    low.become(node, TRANSPOSE, (shares,), **turn)


def _softmax_codes(grid: QuantParams, x: QuantizedTensor) -> Tensor:
    return softmax_codes(x.codes + x.grid.zero_point, float(x.grid.scale)).clamp_(grid.lo, grid.hi)


def exponential(x: Tensor, *offsets: Tensor) -> Tensor:
    """Exponentials of ``x`` plus ``offsets``, relative to the largest of each row: the numerators of a softmax."""
    for offset in offsets:
        x = x + offset
    return torch.exp(x - x.amax(-1, keepdim=True))


def in_whole_steps(scale: Tensor, scores: Tensor, *offsets: Tensor) -> tuple[Tensor, ...]:
    """Round scores with steps of ``scale``, and their offsets, as they are deployed; gradients pass unchanged."""
    step = sum_step(scale)
    rounded = halved(torch.round(scores.detach() / scale), halvings(scale)) * step
    scores = scores + (rounded - scores).detach()
    return scores, *(round_straight_through((o / step).clamp(-MOST_STEPS, MOST_STEPS)) * step for o in offsets)


def _exponential_codes(grid: QuantParams, x: QuantizedTensor, *offsets: Any) -> Tensor:
    codes, step = x.codes, x.grid.scale
    if offsets:
        codes, step = halved(codes, halvings(step)), sum_step(step)
    for offset in offsets:
        codes = codes + whole_steps(real(offset), step)
    below = (codes - codes.amax(-1, keepdim=True)) * step
    return torch.round(torch.exp(below.double()) / grid.scale.double()).clamp_(grid.lo, grid.hi).float()


def _exponential_scale(
    network: nn.Module, graph: Graph, node: Node, operands: Sequence[CodeRange], out: CodeRange
) -> float:
    return exponential_scale(operands[0], out, node.name)


# -- LayerNorm ---------------------------------------------------------------------------------------------------------


def _lower_layer_norm(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _LAYER_NORM, weight=None, bias=None, eps=1e-5)
    row = node.sizes[-1:]
    if tuple(bound["normalized_shape"]) != row or row[0] > LONGEST_ROW:
        raise StaysInFloat(
            f"a LayerNorm over more than the last dimension, or over more than {LONGEST_ROW} values, stays in float"
        )
    refuse_if(
        low.is_activation(bound["weight"]) or low.is_activation(bound["bias"]),
        "a LayerNorm whose gain or offset is computed stays in float",
    )
    if isinstance(target, nn.LayerNorm):
        gain, offset = (parameter(low, node, target, name) for name in ("weight", "bias"))
    else:
        gain, offset = (
            own_constant(low, node, bound["weight"], "gain"),
            own_constant(low, node, bound["bias"], "offset"),
        )
    low.become(node, LAYER_NORM, (node.args[0], gain, offset), eps=float(bound["eps"]))


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _layer_norm_codes(
    grid: QuantParams, x: QuantizedTensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    source = x.grid
    center = row_center(source.zero_point + source.hi, x.codes.shape[-1])
    steps = eps_in_steps(eps, float(source.scale))
    return grid.quantize(layer_norm(x.codes + source.zero_point, center, steps, weight, bias))


def expectation(shares: Tensor, numbers: Tensor, dim: int = 1) -> Tensor:
    """The mean of ``numbers``, such as [1, C, 1 ...], under shares [N, C, ...]; ``dim`` is kept as a single element.

    Generalised focal loss (https://arxiv.org/abs/2006.04388) reads the sides of boxes so off distributions over bins.
    """
    return (shares * numbers).sum(dim, keepdim=True)


BATCH_NORM = Operator(
    name="batch_norm",
    docs="part of the layer before it, or a depthwise convolution",
    kernel="BatchNormalization",
    operands=Operands.FLOATS,
    own_scale=False,
    floats=own_call,
    integers=in_float,
    torch=BATCH_NORMS,
    lower=_lower_batch_norm,
    absorbs_clip=True,
    internal=True,
)
SOFTMAX = Operator(
    name="softmax",
    docs="the softmax of rows",
    kernel="QLinearSoftmax",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.ALWAYS,
    floats=plain(lambda x: torch.softmax(x, -1)),
    integers=kernel(_softmax_codes),
    torch=(nn.Softmax, F.softmax, torch.softmax, "softmax"),
    lower=_lower_softmax,
    step=2.0**-8,
    sign=nonnegative,
    slices=slice_rules.rows,
)
EXPONENTIAL = Operator(
    name="exponential",
    docs="exponentials of scores and their offsets, relative to the largest of each row",
    kernel="",
    operands=Operands.WIDE,
    own_scale=True,
    floats=plain(exponential),
    integers=kernel(_exponential_codes),
    step=2.0**-7,
    sign=as_operands,
    adds_steps=True,
    portable_scale=_exponential_scale,
    in_float="exponentials are computed in float32, on a grid on which every CPU agrees",
    internal=True,
)
EXPECTATION = Operator(
    name="expectation",
    docs="the mean of numbers under the shares of a softmax, behind the last layers",
    kernel="",
    operands=Operands.FLOATS,
    own_scale=False,
    tail=Tail.ALWAYS,
    floats=plain(expectation),
    integers=in_float,
    float_constants=True,
    internal=True,
)
LAYER_NORM = Operator(
    name="layer_norm",
    docs="the LayerNorm of rows",
    kernel="",
    operands=Operands.WIDE,
    own_scale=True,
    floats=plain(_layer_norm),
    integers=kernel(_layer_norm_codes),
    torch=(nn.LayerNorm, F.layer_norm),
    lower=_lower_layer_norm,
    float_constants=True,
    slices=slice_rules.rows,
    in_float="LayerNorm is computed in float32, from exact sums of integers: the same on every CPU",
)
ROWS = (BATCH_NORM, SOFTMAX, EXPONENTIAL, EXPECTATION, LAYER_NORM)

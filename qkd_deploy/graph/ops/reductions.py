"""Means, sums and extremes along dimensions, and the global pool that they become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.contract.evaluation import kernel, mover, plain
from qkd_deploy.graph.contract.lowering import Lowering, is_computed
from qkd_deploy.graph.contract.operator import Operands, Operator, Rewrite, StaysInFloat, Tail, refuse_if
from qkd_deploy.graph.contract.signs import as_operands
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.arithmetic import RESCALE, least_of_operand
from qkd_deploy.graph.ops.movement import RESHAPE, TRANSPOSE
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams

_MEAN = ("input", "dim", "keepdim", "dtype")
_POOL_RATIOS = (2.0**-31, 255.0)


# -- means and sums ----------------------------------------------------------------------------------------------------


def _lower_mean(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _MEAN, dim=None, keepdim=False, dtype=None)
    operand = bound.get("input")
    dims = [] if bound["dim"] is None else sorted(_positive_dims(low, operand, bound["dim"]))
    refuse_if(
        not dims or 0 in dims or low.rank(operand) < 2 or low.batch_dims(operand) != (0,) or bound["dtype"] is not None,
        "a mean over the batch, or of everything, has no integer kernel",
    )
    assert isinstance(operand, Ref)
    spatial = dims == list(range(2, low.rank(operand))) and low.rank(operand) in (3, 4)
    if spatial and bound["keepdim"]:
        low.become(node, GLOBAL_AVG_POOL, (operand,))
        return
    pooled = _pooled_image(low, node, operand, dims) if spatial else _pooled_rows(low, node, operand, dims)
    low.graph.node(pooled.name).label = node.label
    node.label += ".flatten"
    low.become(node, RESHAPE, (pooled, (-1, *node.sizes[1:])), target=torch.reshape)


def _pooled_image(low: Lowering, node: Node, operand: Ref, dims: list[int]) -> Ref:
    shape = (*low.shape(operand)[:2], *(1 for _ in dims))
    return low.insert_before(node, GLOBAL_AVG_POOL, (operand,), "pooled", shape, batch_dims=(0,))


def _pooled_rows(low: Lowering, node: Node, operand: Ref, dims: list[int]) -> Ref:
    """The mean over ``dims`` as a global pool: ``dims`` moved behind the others, all as one channel and one row."""
    sizes = low.shape(operand)
    kept = [d for d in range(1, len(sizes)) if d not in dims]
    order = (0, *kept, *dims)
    moved = tuple(sizes[d] for d in order)
    channels, length = math.prod(sizes[d] for d in kept), math.prod(sizes[d] for d in dims)
    rows = (sizes[0], channels, length)
    batch: dict[str, Any] = {"batch_dims": (0,)}
    turned = low.insert_before(node, TRANSPOSE, (operand,), "moved", moved, kwargs={"dims": order}, **batch)
    flat = low.insert_before(
        node, RESHAPE, (turned, (-1, channels, length)), "rows", rows, target=torch.reshape, **batch
    )
    return low.insert_before(node, GLOBAL_AVG_POOL, (flat,), "pooled", (*rows[:2], 1), **batch)


def _lower_sum(low: Lowering, node: Node, target: Any) -> None:
    """The mean, with another scale."""
    bound = low.bind(node, target, _MEAN)
    operand = bound.pop("input", None)
    refuse_if(not low.is_float(operand), "a sum of integers stays in float")
    before, after = low.shape(operand), node.sizes
    mean = low.insert_before(node, GLOBAL_AVG_POOL, (operand,), "mean", after, kwargs=bound, batch_dims=node.batch_dims)
    inner = low.graph.node(mean.name)
    try:
        _lower_mean(low, inner, torch.mean)
    except StaysInFloat:
        low.graph.remove(inner)
        raise StaysInFloat("a sum over the batch, or of everything, has no integer kernel") from None
    low.become(node, RESCALE, (mean,), factor=math.prod(before) / math.prod(after))


def global_avg_pool(x: Tensor) -> Tensor:
    """Mean over all dimensions behind the channels, kept as ones."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def _global_avg_pool_codes(grid: QuantParams, x: QuantizedTensor) -> Tensor:
    count = x.codes[0, 0].numel()
    total = x.codes.double().sum(tuple(range(2, x.codes.dim())), keepdim=True).float()
    return torch.round(total * (x.grid.scale / (grid.scale * float(count)))).clamp_(grid.lo, grid.hi)


def _pool_scale(network: nn.Module, graph: Graph, node: Node, operands: Sequence[CodeRange], out: CodeRange) -> float:
    """An output scale that ONNX Runtime's global pool accepts: it refuses ``source / scale`` outside [2^-32, 256).

    Beyond these ratios every sum but zero saturates, or every average is zero, so that a good scale is never moved.
    """
    shape = graph.node(node.inputs[0]).sizes
    source = operands[0].scale / math.prod(shape[2:])
    return min(max(out.scale, source / _POOL_RATIOS[1]), source / _POOL_RATIOS[0])


# -- the largest and smallest along dimensions -------------------------------------------------------------------------


def _lower_amax(low: Lowering, node: Node, target: Any) -> None:
    _lower_extreme(low, node, AMAX, low.bind(node, target, ("input", "dim", "keepdim")))


def _lower_amin(low: Lowering, node: Node, target: Any) -> None:
    _lower_extreme(low, node, AMIN, low.bind(node, target, ("input", "dim", "keepdim")))


def lower_extreme_part(low: Lowering, node: Node, source: Node, name: str) -> None:
    """Make ``x.max(dim)[0]`` the largest elements along a dimension."""
    kind = AMAX if name == "max" else AMIN
    _lower_extreme(low, node, kind, low.bind(source, source.target, ("input", "dim", "keepdim")))


def _lower_extreme(low: Lowering, node: Node, kind: Operator, bound: dict[str, Any]) -> None:
    """The largest or smallest elements along dimensions, which are those of the codes."""
    operand, dims, keep = bound.get("input"), bound.get("dim"), bound.get("keepdim", False)
    refuse_if(
        dims in (None, (), []) or is_computed(dims, keep) or not low.is_float(operand),
        "the largest or smallest element of everything stays in float",
    )
    dims = _positive_dims(low, operand, dims)
    low.require_off_batch(operand, dims, "the largest or smallest elements along the batch stay in float")
    low.become(node, kind, (operand,), dim=tuple(dims), keepdim=bool(keep))


def _positive_dims(low: Lowering, operand: Any, dims: Any) -> list[int]:
    """One dimension or several, counted from the front."""
    return [dim % low.rank(operand) for dim in (dims if isinstance(dims, (list, tuple)) else [dims])]


# -- rows --------------------------------------------------------------------------------------------------------------

GLOBAL_AVG_POOL = Operator(
    name="global_avg_pool",
    docs="the mean of every channel",
    kernel="QLinearGlobalAveragePool",
    operands=Operands.EIGHT_BITS,
    own_scale=True,
    floats=plain(global_avg_pool),
    integers=kernel(_global_avg_pool_codes),
    sign=as_operands,
    absorbs_clip=True,
    portable_scale=_pool_scale,
    lower_bound=least_of_operand,
)
AMAX = mover(
    name="amax",
    docs="the largest elements along dimensions",
    kernel="ReduceMax",
    tail=Tail.BESIDE_OTHERS,
    floats=plain(torch.amax),
    torch=(torch.amax, "amax"),
    lower=_lower_amax,
)
AMIN = mover(
    name="amin",
    docs="the smallest elements along dimensions",
    kernel="ReduceMin",
    tail=Tail.BESIDE_OTHERS,
    floats=plain(torch.amin),
    torch=(torch.amin, "amin"),
    lower=_lower_amin,
)
ROWS = (
    GLOBAL_AVG_POOL,
    AMAX,
    AMIN,
    Rewrite(
        name="mean",
        becomes="a global average pool, over any dimensions but the batch",
        torch=(torch.mean, "mean"),
        lower=_lower_mean,
    ),
    Rewrite(name="sum", becomes="a mean with another scale", torch=(torch.sum, "sum"), lower=_lower_sum),
)

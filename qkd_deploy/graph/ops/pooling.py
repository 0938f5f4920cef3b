"""Pooling in all its spellings: max, average, adaptive and global pools, means, sums, extremes along dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.contract.evaluation import kernel, mover, plain
from qkd_deploy.graph.contract.lowering import Lowering, is_computed
from qkd_deploy.graph.contract.operator import Operands, Operator, Rewrite, StaysInFloat, refuse_if
from qkd_deploy.graph.contract.signs import as_operands
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.arithmetic import RESCALE, least_of_operand
from qkd_deploy.graph.ops.movement import RESHAPE, TRANSPOSE
from qkd_deploy.graph.quantized import POOL_CODE, QuantizedTensor, QuantParams, pool_weight_scale

_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MEAN = ("input", "dim", "keepdim", "dtype")
_INDICES = "a max-pool that returns indices has no integer kernel"
_POOL_RATIOS = (2.0**-31, 255.0)


# -- max-pools ---------------------------------------------------------------------------------------------------------


def _lower_max_pool(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _MAX_POOL, stride=None, padding=0, dilation=1, ceil_mode=False)
    refuse_if(bound.get("return_indices"), _INDICES)
    spatial = len(node.sizes) - 2
    kernel_size = _sizes(bound["kernel_size"], spatial)
    low.become(
        node,
        MAX_POOL,
        (node.args[0],),
        kernel_size=kernel_size,
        stride=_sizes(bound["stride"] or kernel_size, spatial),
        padding=_sizes(bound["padding"], spatial),
        dilation=_sizes(bound["dilation"], spatial),
        ceil_mode=bool(bound["ceil_mode"]),
    )


def max_pool(x: Tensor, **options: Any) -> Tensor:
    """Max-pool over one or two spatial dimensions; also right on codes, since padding never wins."""
    pooled: Tensor = F.max_pool1d(x, **options) if x.dim() == 3 else F.max_pool2d(x, **options)
    return pooled


def _sizes(value: Any, count: int) -> tuple[int, ...]:
    """An int or sequence as a tuple of ``count`` ints."""
    if not isinstance(value, (tuple, list)):
        return (int(value),) * count
    return tuple(int(v) for v in value) if len(value) == count else (int(value[0]),) * count


# -- average pools -----------------------------------------------------------------------------------------------------


def _lower_avg_pool(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _AVG_POOL, stride=None, padding=0, count_include_pad=True)
    if bound.get("divisor_override"):
        raise UserError(f"{node.label} pools with a divisor of its own, which ONNX cannot express; multiply instead")
    before, after = low.shape(node.args[0])[2:], node.sizes[2:]
    kernel_size, padding = _sizes(bound["kernel_size"], len(after)), _sizes(bound["padding"], len(after))
    stride = _sizes(bound["stride"] or kernel_size, len(after))
    whole = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(before, padding, kernel_size, stride, strict=True))
    overhang, counted = after != whole, bool(bound["count_include_pad"]) and any(padding)
    if overhang and counted:
        raise UserError(
            f"{node.label} counts padding in windows that reach beyond it, which PyTorch and ONNX do differently; "
            "use count_include_pad=False or ceil_mode=False"
        )
    options: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    if overhang or (any(padding) and not counted):
        low.become(node, UNEVEN_AVG_POOL, (node.args[0],), **options, ceil_mode=overhang)
    else:
        low.become(node, AVG_POOL, (node.args[0],), **options)


def _avg_pool(x: Tensor, **options: Any) -> Tensor:
    """Average pool over one or two spatial dimensions, every window full."""
    return (F.avg_pool1d if x.dim() == 3 else F.avg_pool2d)(x, **options)


def _uneven_avg_pool(x: Tensor, **options: Any) -> Tensor:
    """Average pool whose windows count only elements of the image."""
    return _avg_pool(x, **options, count_include_pad=False)


def taps(
    x: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], ceil_mode: bool = False
) -> Iterator[Tensor]:
    """Yield what every position of a pooling window sees, in row-major order; outside the image there are zeros."""
    shape = zip(x.shape[2:], kernel_size, stride, padding, strict=True)
    sizes = [_windows(n, k, s, p, ceil_mode) for n, k, s, p in shape]
    geometry = zip(sizes, x.shape[2:], kernel_size, stride, padding, strict=True)
    ends = [(o - 1) * s + k - n - p for o, n, k, s, p in geometry]
    padded = F.pad(x, [amount for pair in reversed([*zip(padding, ends, strict=True)]) for amount in pair])
    for offsets in product(*(range(k) for k in kernel_size)):
        windows = (slice(at, at + (o - 1) * s + 1, s) for at, o, s in zip(offsets, sizes, stride, strict=True))
        index: tuple[Any, ...] = (..., *windows)
        yield padded[index]


def _windows(n: int, k: int, s: int, p: int, ceil_mode: bool) -> int:
    """How many windows of k, s apart, fit into n elements with p before and behind; none starts beyond the image."""
    if not ceil_mode:
        return (n + 2 * p - k) // s + 1
    size = -((k - n - 2 * p) // s) + 1
    return size - 1 if (size - 1) * s >= n + p else size


def _avg_pool_codes(grid: QuantParams, x: QuantizedTensor, **options: Any) -> Tensor:
    """A depthwise convolution with weight codes 64, which ONNX Runtime computes faster and exactly, unlike its pool."""
    total = sum(taps(x.codes.double(), **options), torch.zeros(())).mul(POOL_CODE).float()
    weight_scale = x.grid.scale.new_tensor(pool_weight_scale(options["kernel_size"]))
    return torch.round((total * (x.grid.scale * weight_scale / grid.scale)).clamp_(grid.lo, grid.hi))


def _uneven_avg_pool_codes(grid: QuantParams, x: QuantizedTensor, **options: Any) -> Tensor:
    """QLinearAveragePool: float32 sums tap by tap, the zero point inside the rounding."""
    values = x.real()
    total = sum(taps(values, **options), torch.zeros(()))
    count = sum(taps(torch.ones_like(values[:1, :1]), **options), torch.zeros(()))
    return (torch.round(total / count / grid.scale + grid.zero_point) - grid.zero_point).clamp_(grid.lo, grid.hi)


# -- adaptive pools ----------------------------------------------------------------------------------------------------


def _lower_adaptive_avg_pool(low: Lowering, node: Node, target: Any) -> None:
    if all(size == 1 for size in node.sizes[2:]):
        low.become(node, GLOBAL_AVG_POOL, (node.args[0],))
    else:
        _fixed_pool(low, node, AVG_POOL, "average")


def _lower_adaptive_max_pool(low: Lowering, node: Node, target: Any) -> None:
    refuse_if(low.bind(node, target, ("input", "output_size", "return_indices")).get("return_indices"), _INDICES)
    _fixed_pool(low, node, MAX_POOL, "max", dilation=1, ceil_mode=False)


def _fixed_pool(low: Lowering, node: Node, kind: Operator, word: str, **options: Any) -> None:
    """An adaptive pool as an ordinary one, where the output size divides the input size."""
    before, after = low.shape(node.args[0])[2:], node.sizes[2:]
    if not after or any(a % b for a, b in zip(before, after, strict=True)):
        raise StaysInFloat(
            f"an adaptive {word} pool whose output size does not divide its input size has windows of several sizes"
        )
    size = tuple(a // b for a, b in zip(before, after, strict=True))
    if "dilation" in options:
        options["dilation"] = (1,) * len(size)
    low.become(node, kind, (node.args[0],), kernel_size=size, stride=size, padding=(0,) * len(size), **options)


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

MAX_POOL = mover(
    name="max_pool",
    docs="the largest element of every window",
    kernel="MaxPool",
    floats=plain(max_pool),
    torch=(nn.MaxPool1d, nn.MaxPool2d, F.max_pool1d, F.max_pool2d, torch.max_pool1d, torch.max_pool2d),
    lower=_lower_max_pool,
    moves_with_clip=True,
)
AVG_POOL = Operator(
    name="avg_pool",
    docs="the mean of every window",
    kernel="QLinearConv",
    operands=Operands.WIDE,
    own_scale=True,
    floats=plain(_avg_pool),
    integers=kernel(_avg_pool_codes),
    torch=(nn.AvgPool1d, nn.AvgPool2d, F.avg_pool1d, F.avg_pool2d),
    lower=_lower_avg_pool,
    sign=as_operands,
    absorbs_clip=True,
    lower_bound=least_of_operand,
)
UNEVEN_AVG_POOL = Operator(
    name="uneven_avg_pool",
    docs="the mean of what every window holds of the image",
    kernel="QLinearAveragePool",
    operands=Operands.WIDE,
    own_scale=True,
    floats=plain(_uneven_avg_pool),
    integers=kernel(_uneven_avg_pool_codes),
    sign=as_operands,
    absorbs_clip=True,
)
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
    floats=plain(torch.amax),
    torch=(torch.amax, "amax"),
    lower=_lower_amax,
)
AMIN = mover(
    name="amin",
    docs="the smallest elements along dimensions",
    kernel="ReduceMin",
    floats=plain(torch.amin),
    torch=(torch.amin, "amin"),
    lower=_lower_amin,
)
ROWS = (
    MAX_POOL,
    AVG_POOL,
    UNEVEN_AVG_POOL,
    GLOBAL_AVG_POOL,
    AMAX,
    AMIN,
    Rewrite(
        name="adaptive_avg_pool",
        becomes="a global average pool, or an average pool where windows have one size",
        torch=(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
        lower=_lower_adaptive_avg_pool,
    ),
    Rewrite(
        name="adaptive_max_pool",
        becomes="a max-pool where windows have one size",
        torch=(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d),
        lower=_lower_adaptive_max_pool,
    ),
    Rewrite(
        name="mean",
        becomes="a global average pool, over any dimensions but the batch",
        torch=(torch.mean, "mean"),
        lower=_lower_mean,
    ),
    Rewrite(name="sum", becomes="a mean with another scale", torch=(torch.sum, "sum"), lower=_lower_sum),
)

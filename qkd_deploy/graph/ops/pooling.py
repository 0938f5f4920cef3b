"""Pooling over windows: max, average and adaptive pools."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.contract.evaluation import kernel, mover, plain
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.contract.operator import Operands, Operator, Rewrite, StaysInFloat, Tail, refuse_if
from qkd_deploy.graph.contract.signs import as_operands
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.arithmetic import least_of_operand
from qkd_deploy.graph.ops.reductions import GLOBAL_AVG_POOL
from qkd_deploy.graph.quantized import POOL_CODE, QuantizedTensor, QuantParams, pool_weight_scale

_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_INDICES = "a max-pool that returns indices has no integer kernel"


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
    _fixed_pool(low, node, MAX_POOL, "max", dilation=_sizes(1, len(node.sizes[2:])), ceil_mode=False)


def _fixed_pool(low: Lowering, node: Node, kind: Operator, word: str, **options: Any) -> None:
    """An adaptive pool as an ordinary one, where the output size divides the input size."""
    before, after = low.shape(node.args[0])[2:], node.sizes[2:]
    if not after or any(a % b for a, b in zip(before, after, strict=True)):
        raise StaysInFloat(
            f"an adaptive {word} pool whose output size does not divide its input size has windows of several sizes"
        )
    size = tuple(a // b for a, b in zip(before, after, strict=True))
    low.become(node, kind, (node.args[0],), kernel_size=size, stride=size, padding=(0,) * len(size), **options)


# -- rows --------------------------------------------------------------------------------------------------------------

MAX_POOL = mover(
    name="max_pool",
    docs="the largest element of every window",
    kernel="MaxPool",
    tail=Tail.BESIDE_OTHERS,
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
ROWS = (
    MAX_POOL,
    AVG_POOL,
    UNEVEN_AVG_POOL,
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
)

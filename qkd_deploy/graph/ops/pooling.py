"""Windows: max, average and adaptive pools, and upsampling, which reads between the pixels of a window."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
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
_RESIZE = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
_MOST_COPIES = 4
_WHOLE = (
    "only nearest upsampling by whole factors, and bilinear by small ones without aligned corners, runs in integers"
)
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


# -- upsampling --------------------------------------------------------------------------------------------------------


def _lower_resize(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, _RESIZE, mode="nearest")
    before, after = low.shape(node.args[0])[2:], node.sizes[2:]
    given = _given_factors(bound, len(after))
    if bound["mode"] in ("linear", "bilinear") and before == after and given in (None, (1,) * len(after)):
        low.remove(node)
        return
    refuse_if(any(new % old for old, new in zip(before, after, strict=True)) or len(after) not in (1, 2), _WHOLE)
    factors = tuple(new // old for old, new in zip(before, after, strict=True))
    if bound["mode"] == "bilinear":
        other = bound.get("align_corners") or bound.get("antialias") or given not in (None, factors)
        refuse_if(other or copies_of_windows(factors) > _MOST_COPIES, _WHOLE)
        low.become(node, BILINEAR, (node.args[0],), factors=factors)
        return
    refuse_if(bound["mode"] not in ("nearest", "nearest-exact"), _WHOLE)
    if given not in (None, factors):  # a factor of 2.1 may double the size, but not every pixel
        raise UserError(
            f"{node.label} resizes by factors that its output size only comes near to, which PyTorch and ONNX do "
            "differently; use recompute_scale_factor=True or size="
        )
    low.become(node, RESIZE, (node.args[0],), factors=factors)


def _given_factors(bound: dict[str, Any], dimensions: int) -> tuple[float, ...] | None:
    """The factors of a call; None where sizes alone count."""
    given = None if bound.get("recompute_scale_factor") else bound.get("scale_factor")
    if given is None:
        return None
    return (given,) * dimensions if isinstance(given, (int, float)) else tuple(given)


def _resize(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, scale_factor=[float(factor) for factor in factors], mode="nearest")


def _bilinear(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, scale_factor=[float(factor) for factor in factors], mode="bilinear")


def _shares(factor: int) -> list[tuple[int, int]]:
    """Whole shares of two neighbours in the ``factor`` places between them; all pairs have one sum."""
    if factor % 2:
        return [(factor - k, k) for k in range(factor)]
    return [(2 * factor - k, k) for k in range(1, 2 * factor, 2)]


def window_weights(factors: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Whole weights of a window of 2 x 2 for each place between its pixels, [places, 2, 2]."""
    rows, columns = (np.array(_shares(factor)) for factor in factors)
    return np.asarray(np.einsum("ia,jb->ijab", rows, columns).reshape(-1, 2, 2))


def copies_of_windows(factors: tuple[int, ...]) -> int:
    """How many times an image is read so that each time all weights are within 64, which is safe on every x86 CPU."""
    return int(-(-window_weights(factors).max() // POOL_CODE))


def first_places(factors: tuple[int, ...]) -> tuple[int, int]:
    """Where the image begins among the places between the pixels of an image with a border of one pixel."""
    rows, columns = ((factor + 1) // 2 for factor in factors)
    return rows, columns


def bilinear_scale(factors: tuple[int, ...]) -> float:
    """What one weight stands for: weights of a window add up to 1."""
    return float(np.float32(1 / window_weights(factors)[0].sum()))


def _bilinear_codes(grid: QuantParams, x: QuantizedTensor, factors: tuple[int, int]) -> Tensor:
    """A convolution of windows of 2 x 2 with whole weights, its results put in order (decision 41)."""
    images, channels, height, width = x.codes.shape
    rows, columns = factors
    weights = torch.from_numpy(window_weights(factors)).to(x.codes.device).double().unsqueeze(1)
    bordered = F.pad(x.codes.double(), (1, 1, 1, 1), mode="replicate").reshape(-1, 1, height + 2, width + 2)
    sums = F.conv2d(bordered, weights).view(images, channels, rows, columns, height + 1, width + 1)
    places = sums.permute(0, 1, 4, 2, 5, 3).reshape(images, channels, rows * (height + 1), columns * (width + 1))
    top, left = first_places(factors)
    sums = places[:, :, top : top + rows * height, left : left + columns * width].float()
    scale = x.grid.scale.new_tensor(bilinear_scale(factors))
    return torch.round((sums * (x.grid.scale * scale / grid.scale)).clamp_(grid.lo, grid.hi))


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
RESIZE = mover(
    name="resize",
    docs="nearest upsampling by whole factors",
    kernel="Resize",
    tail=Tail.BESIDE_OTHERS,
    floats=plain(_resize),
    torch=(F.interpolate, nn.Upsample, nn.UpsamplingNearest2d),
    lower=_lower_resize,
)
BILINEAR = Operator(
    name="bilinear",
    docs="bilinear upsampling by small whole factors, without aligned corners",
    kernel="QLinearConv",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.ALWAYS,
    floats=plain(_bilinear),
    integers=kernel(_bilinear_codes),
    sign=as_operands,
    absorbs_clip=True,
    lower_bound=least_of_operand,
)
ROWS = (
    MAX_POOL,
    AVG_POOL,
    UNEVEN_AVG_POOL,
    RESIZE,
    BILINEAR,
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

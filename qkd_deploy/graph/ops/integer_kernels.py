"""ONNX Runtime's integer kernels in PyTorch, layers excepted: codes in, codes out.

All roundings are those of the runtime: float32, half to even, in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qkd_deploy.graph.exact.rows import eps_in_steps, layer_norm, row_center, softmax_codes
from qkd_deploy.graph.ops import operations
from qkd_deploy.graph.quantized import POOL_CODE, LookupParams, QuantizedTensor, QuantParams, pool_weight_scale, real


def _input(grid: QuantParams, x: Any) -> Tensor:
    return x.codes if isinstance(x, QuantizedTensor) else grid.quantize(x.float())


def _add(grid: QuantParams, a: QuantizedTensor, b: QuantizedTensor) -> Tensor:
    return grid.quantize(a.real() + b.real())


def _mul(grid: QuantParams, a: QuantizedTensor, b: QuantizedTensor) -> Tensor:
    return grid.quantize(a.real() * b.real())


def _matmul(grid: QuantParams, a: QuantizedTensor, b: QuantizedTensor) -> Tensor:
    sums = torch.matmul(a.codes.double(), b.codes.double()).float()
    return sums.mul_(a.grid.scale * b.grid.scale / grid.scale).clamp_(grid.lo, grid.hi).round_()


def _leaky_relu(grid: QuantParams, x: QuantizedTensor, slope: float | Tensor) -> Tensor:
    return grid.quantize(operations.leaky_relu(x.real(), slope))


def _sigmoid(grid: QuantParams, x: QuantizedTensor) -> Tensor:
    steps = torch.sigmoid(x.real().double()) / grid.scale.double()
    return torch.round(steps).clamp_(grid.lo, grid.hi).float()


def _table(grid: QuantParams, x: QuantizedTensor, *_: Any, **__: Any) -> Tensor:
    assert isinstance(grid, LookupParams)
    centered = grid.table.float() - grid.zero_point
    return centered[(x.codes + x.grid.zero_point).long()]


def _softmax(grid: QuantParams, x: QuantizedTensor) -> Tensor:
    return softmax_codes(x.codes + x.grid.zero_point, float(x.grid.scale)).clamp_(grid.lo, grid.hi)


def _exponential(grid: QuantParams, x: QuantizedTensor) -> Tensor:
    below = (x.codes - x.codes.amax(-1, keepdim=True)) * x.grid.scale
    return torch.round(torch.exp(below.double()) / grid.scale.double()).clamp_(grid.lo, grid.hi).float()


def _weighted_mean(
    grid: QuantParams, weights: QuantizedTensor, values: QuantizedTensor, undropped: QuantizedTensor
) -> Tensor:
    """The step of the weights stands in both sums and cancels."""
    sums = torch.matmul(weights.codes.double(), values.codes.double()).float()
    means = sums / undropped.codes.double().sum(-1, keepdim=True).float()
    return torch.round(means / (grid.scale / values.grid.scale)).clamp_(grid.lo, grid.hi)


def _layer_norm(
    grid: QuantParams, x: QuantizedTensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    source = x.grid
    center = row_center(source.zero_point + source.hi, x.codes.shape[-1])
    steps = eps_in_steps(eps, float(source.scale))
    return grid.quantize(layer_norm(x.codes + source.zero_point, center, steps, weight, bias))


def _concat(grid: QuantParams, parts: list[QuantizedTensor], dim: int) -> Tensor:
    return torch.cat([grid.quantize(part.real()) for part in parts], dim)


def _requantize(grid: QuantParams, x: Any) -> Tensor:
    return grid.quantize(real(x))


def _global_avg_pool(grid: QuantParams, x: QuantizedTensor) -> Tensor:
    dims = tuple(range(2, x.codes.dim()))
    count = x.codes[0, 0].numel()
    total = x.codes.double().sum(dims, keepdim=True).float()
    return torch.round(total * (x.grid.scale / (grid.scale * float(count)))).clamp_(grid.lo, grid.hi)


def _avg_pool(grid: QuantParams, x: QuantizedTensor, **options: Any) -> Tensor:
    """A depthwise convolution with weight codes 64, which ONNX Runtime computes faster and exactly, unlike its pool."""
    total = sum(operations.taps(x.codes.double(), **options), torch.zeros(())).mul(POOL_CODE).float()
    weight_scale = x.grid.scale.new_tensor(pool_weight_scale(options["kernel_size"]))
    return torch.round((total * (x.grid.scale * weight_scale / grid.scale)).clamp_(grid.lo, grid.hi))


def _uneven_avg_pool(grid: QuantParams, x: QuantizedTensor, **options: Any) -> Tensor:
    """QLinearAveragePool: float32 sums tap by tap, the zero point inside the rounding."""
    values = x.real()
    total = sum(operations.taps(values, **options), torch.zeros(()))
    count = sum(operations.taps(torch.ones_like(values[:1, :1]), **options), torch.zeros(()))
    return (torch.round(total / count / grid.scale + grid.zero_point) - grid.zero_point).clamp_(grid.lo, grid.hi)


KERNELS: dict[str, Callable[..., Tensor]] = {
    "input": _input,
    "add": _add,
    "mul": _mul,
    "matmul": _matmul,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "exponential": _exponential,
    "weighted_mean": _weighted_mean,
    "layer_norm": _layer_norm,
    "table": _table,
    "concat": _concat,
    "requantize": _requantize,
    "clip": _requantize,
    "global_avg_pool": _global_avg_pool,
    "avg_pool": _avg_pool,
    "uneven_avg_pool": _uneven_avg_pool,
}
ON_CODES = (
    "max_pool",
    "reshape",
    "transpose",
    "slice",
    "pad",
    "resize",
    "roll",
    "expand",
    "index",
    "amax",
    "amin",
    "dropout",
    "python",
)

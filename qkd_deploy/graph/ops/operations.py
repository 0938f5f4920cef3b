"""What the kinds of nodes compute on floats, for the prepared model and for the float parts of the frozen one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.quantizers.batch_norm import BatchNorm


def apply(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], *, training: bool) -> Any:
    """Evaluate any node but a layer; ``network`` holds the user's modules and parameters."""
    operation = _OPERATIONS.get(node.kind)
    if operation is not None:
        return operation(*args, **kwargs)
    if node.kind == "dropout" and not isinstance(node.target, str):
        assert callable(node.target)
        return node.target(*args, training=training, **kwargs)
    return _call(network, node, args, kwargs)


def _call(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The user's own module, parameter, method or function."""
    if node.kind == "constant":
        return _at(network, str(node.target))
    if node.method:
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if isinstance(node.target, str):
        return network.get_submodule(node.target)(*args, **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _at(network: nn.Module, path: str) -> Any:
    value: Any = network
    for part in path.split("."):
        value = getattr(value, part)
    return value


def max_pool(x: Tensor, **options: Any) -> Tensor:
    """Max-pool over one or two spatial dimensions; also right on codes, since padding never wins."""
    pooled: Tensor = F.max_pool1d(x, **options) if x.dim() == 3 else F.max_pool2d(x, **options)
    return pooled


Range = tuple[int, int, int, int]
"""Dimension, start, stop and step of a slice."""


def take(x: Tensor, ranges: tuple[Range, ...]) -> Tensor:
    """The part of a tensor within all ``ranges``."""
    index = [slice(None)] * x.dim()
    for dim, *bounds in ranges:
        index[dim] = slice(*bounds)
    return x[tuple(index)]


def pad(x: Tensor, amounts: tuple[tuple[int, int], ...], mode: str) -> Tensor:
    """Pad every dimension by ``(before, after)``, with zeros or (``mode``) the image's own values."""
    used = next((i for i, pair in enumerate(amounts) if any(pair)), len(amounts))
    first = used if mode == "constant" else 2  # the other modes pad all spatial dimensions
    flat = [amount for pair in reversed(amounts[first:]) for amount in pair]
    return F.pad(x, flat, mode=mode)


def resize(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Nearest upsampling of the spatial dimensions by whole factors."""
    return F.interpolate(x, scale_factor=[float(factor) for factor in factors], mode="nearest")


def expand(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Dimensions of one element repeated; -1 leaves a dimension as it is."""
    return x.expand(sizes)


def index(x: Tensor, dim: int, positions: tuple[int, ...] | Tensor) -> Tensor:
    """What is at these positions of a dimension, in this order; a buffer of the network may count backwards."""
    return x.index_select(dim, torch.as_tensor(positions, device=x.device) % x.shape[dim])


def rescale(x: Tensor, factor: float) -> Tensor:
    """The tensor times a number."""
    return x * factor


def leaky_relu(x: Tensor, slope: float | Tensor) -> Tensor:
    """``x`` where it is positive, ``slope * x`` elsewhere; the slope may be a parameter of one element."""
    return F.prelu(x, slope.reshape(1)) if isinstance(slope, Tensor) else F.leaky_relu(x, slope)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm of the last dimension."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def exponential(x: Tensor) -> Tensor:
    """Exponentials relative to the largest element of each row: the numerators of a softmax."""
    return torch.exp(x - x.amax(-1, keepdim=True))


def weighted_mean(weights: Tensor, values: Tensor, undropped: Tensor) -> Tensor:
    """Mean of the rows of ``values``; weights that dropout removed count in the sum that divides."""
    return (weights @ values) / undropped.sum(-1, keepdim=True)


def slope_of(network: nn.Module, graph: Graph, node: Node) -> float:
    """The slope of a ``leaky_relu`` as a number, when it is no longer trained."""
    slope = node.args[1]
    if isinstance(slope, Ref):
        slope = _call(network, graph.node(slope.name), (), {}).item()
    return float(slope)


def avg_pool(x: Tensor, **options: Any) -> Tensor:
    """Average pool over one or two spatial dimensions, every window full."""
    return (F.avg_pool1d if x.dim() == 3 else F.avg_pool2d)(x, **options)


def uneven_avg_pool(x: Tensor, **options: Any) -> Tensor:
    """Average pool whose windows count only elements of the image."""
    return avg_pool(x, **options, count_include_pad=False)


def taps(
    x: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], ceil_mode: bool = False
) -> Iterator[Tensor]:
    """What every position of a pooling window sees, in row-major order; outside the image there are zeros."""
    sizes = []
    for n, k, s, p in zip(x.shape[2:], kernel_size, stride, padding, strict=True):
        size = -((k - n - 2 * p) // s) + 1 if ceil_mode else (n + 2 * p - k) // s + 1
        sizes.append(size - 1 if ceil_mode and (size - 1) * s >= n + p else size)  # no window starts beyond the image
    ends = [
        (o - 1) * s + k - n - p for o, n, k, s, p in zip(sizes, x.shape[2:], kernel_size, stride, padding, strict=True)
    ]
    padded = F.pad(x, [amount for pair in reversed([*zip(padding, ends, strict=True)]) for amount in pair])
    for offsets in product(*(range(k) for k in kernel_size)):
        windows = (slice(at, at + (o - 1) * s + 1, s) for at, o, s in zip(offsets, sizes, stride, strict=True))
        index: tuple[Any, ...] = (..., *windows)
        yield padded[index]


def global_avg_pool(x: Tensor) -> Tensor:
    """Mean over all dimensions behind the channels, kept as ones."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def layer_forward(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution or linear layer with other parameters than its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    result: Tensor = layer._conv_forward(x, weight, bias)
    return result


def layer_parameters(network: nn.Module, node: Node, *, exact: bool = False) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer in full precision, with the gain and the offset of a layer norm in front of it.

    ``exact``: the bias is added up in one order and in float64, so that every machine gives the same bits.
    """
    layer: Any = network.get_submodule(str(node.target))
    weight, bias = layer.weight, layer.bias
    if node.offset is not None:
        offset = _at(network, node.offset)
        moved = _in_order(weight.double() * offset.double()) if exact else F.linear(offset, weight)
        bias = moved if bias is None else bias + moved
    if node.gain is not None:
        weight = weight * _at(network, node.gain)
    return weight, bias


def _in_order(terms: Tensor) -> Tensor:
    """The sum of every row, column after column."""
    total = torch.zeros_like(terms[:, 0])
    for column in terms.unbind(1):
        total = total + column
    return total


def batch_norm_of(network: nn.Module, node: Node) -> BatchNorm | None:
    """The batch norm fused behind a layer, or None."""
    if node.batch_norm is None:
        return None
    module = network.get_submodule(node.batch_norm)
    assert isinstance(module, BatchNorm)
    return module


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "input": lambda x: x,
    "add": torch.add,
    "mul": torch.mul,
    "matmul": torch.matmul,
    "concat": torch.cat,
    "leaky_relu": leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hard_sigmoid": F.hardsigmoid,
    "softmax": lambda x: torch.softmax(x, -1),
    "exponential": exponential,
    "weighted_mean": weighted_mean,
    "layer_norm": layer_norm,
    "pad": pad,
    "resize": resize,
    "rescale": rescale,
    "roll": torch.roll,
    "expand": expand,
    "index": index,
    "amax": torch.amax,
    "amin": torch.amin,
    "avg_pool": avg_pool,
    "uneven_avg_pool": uneven_avg_pool,
    "global_avg_pool": global_avg_pool,
    "requantize": lambda x: x,
    "clip": lambda x: x,
    "max_pool": max_pool,
    "slice": take,
    "transpose": torch.permute,
}

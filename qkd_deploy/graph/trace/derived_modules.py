"""Classes derived from PyTorch's layers: tracing takes them apart until the plain layer remains.

TensorFlow's padding is written as a class derived from ``nn.Conv2d`` that pads and then calls ``F.conv2d`` with its own
weight; batch norms carry activation functions (``batch_norms``). Such modules are traced through, and the class of the
copied module becomes PyTorch's: parameters, children and their names stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Classes with a weight that integer kernels multiply by."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)

_LAYER_OF_FUNCTION: dict[Any, type[nn.Module]] = {F.linear: nn.Linear, F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d}
_PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_OPTIONS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
"""Options of ``F.conv1d`` and ``F.conv2d`` and their defaults."""


def plain_class(module: nn.Module) -> Any:
    """Return PyTorch's class that a layer or batch norm is, or is derived from."""
    return next(kind for kind in (*BATCH_NORMS, *LAYERS) if isinstance(module, kind))


def plain_forward(module: nn.Module, x: Tensor) -> Tensor:
    """Compute the forward of PyTorch's own class with a module's parameters and settings."""
    result: Tensor = plain_class(module).forward(module, x)
    return result


def make_plain(network: nn.Module, paths: Iterable[str]) -> None:
    """Let modules that have become several steps be PyTorch's layers and nothing else."""
    for path in paths:
        module = network.get_submodule(path)
        module.__class__ = plain_class(module)


def layer_of_call(root: nn.Module, target: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Find the layer for which a call like ``F.conv2d(x, layer.weight, layer.bias, ...)`` stands.

    Returns:
        the layer's path and ``x``. None for other functions, for weights that are no layer's own, and where the options
        are not the layer's.
    """
    kind = _LAYER_OF_FUNCTION.get(target)
    if kind is None:
        return None
    bound = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
    path, _, name = _parameter(bound.get("weight")).rpartition(".")
    if name != "weight":
        return None
    layer = root.get_submodule(path)
    return (path, bound["input"]) if isinstance(layer, kind) and _is_called_as_it_is(layer, path, bound) else None


def _is_called_as_it_is(layer: nn.Module, path: str, bound: Mapping[str, Any]) -> bool:
    """Tell whether a call with a layer's weight also has its bias and options."""
    own_bias = "" if layer._parameters.get("bias") is None else f"{path}.bias"
    if _parameter(bound.get("bias")) != own_bias:
        return False
    return isinstance(layer, nn.Linear) or _has_options(layer, bound)


def _parameter(value: Any) -> str:
    """Return the path of a parameter that is used as it is; "" for anything else."""
    return str(value.node.target) if isinstance(value, fx.Proxy) and value.node.op == "get_attr" else ""


def _has_options(layer: Any, bound: Mapping[str, Any]) -> bool:
    """Tell whether a call of a convolution has the options of the layer."""
    if layer.padding_mode != "zeros":
        return False
    dims = len(layer.kernel_size)
    given = [_per_dim(bound.get(option, default), dims) for option, default in _OPTIONS.items()]
    return given == [_per_dim(getattr(layer, option), dims) for option in _OPTIONS]


def _per_dim(value: Any, dims: int) -> Any:
    """Repeat a number for every spatial dimension; padding may be a word."""
    if isinstance(value, int):
        return (value,) * dims
    return value if isinstance(value, str) else tuple(value)

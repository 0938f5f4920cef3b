"""Modules derived from PyTorch's layers that tracing takes apart: what remains of them is the plain layer.

TensorFlow's padding is written as a class derived from ``nn.Conv2d`` that pads and then calls ``F.conv2d`` with its own
weight; batch norms carry activation functions (``trace_batch_norms``). The copied module's class becomes the plain one:
parameters, children and their names stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from qkd_deploy.graph.ops.contract import BATCH_NORMS, LAYERS

_FUNCTIONS: dict[Any, type[nn.Module]] = {F.linear: nn.Linear, F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d}
_CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def plain_class(module: nn.Module) -> Any:
    """PyTorch's class that a layer or batch norm is, or is derived from."""
    return next(kind for kind in (*BATCH_NORMS, *LAYERS) if isinstance(module, kind))


def plain_forward(module: nn.Module, x: Tensor) -> Tensor:
    """What PyTorch's own class computes with a module's parameters and settings."""
    result: Tensor = plain_class(module).forward(module, x)
    return result


def make_plain(network: nn.Module, paths: Iterable[str]) -> None:
    """Let modules that have become several steps be PyTorch's layers and nothing else."""
    for path in paths:
        module = network.get_submodule(path)
        module.__class__ = plain_class(module)


def layer_of_call(root: nn.Module, target: Any, args: Any, kwargs: dict[str, Any]) -> tuple[str, Any] | None:
    """Path of the layer for which ``F.conv2d(x, layer.weight, layer.bias, ...)`` stands, and ``x``.

    None for other functions, for weights that are no layer's own, and where the options are not the layer's.
    """
    kind = _FUNCTIONS.get(target)
    if kind is None:
        return None
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    bound = {**dict(zip(names, args, strict=False)), **kwargs}
    path, _, name = _parameter(bound.get("weight")).rpartition(".")
    if name != "weight":
        return None
    layer: Any = root.get_submodule(path)
    if not isinstance(layer, kind) or getattr(layer, "padding_mode", "zeros") != "zeros":
        return None
    if _parameter(bound.get("bias")) != (f"{path}.bias" if layer._parameters.get("bias") is not None else ""):
        return None
    if kind is not nn.Linear and any(
        _pair(bound.get(option, default), layer) != _pair(getattr(layer, option), layer)
        for option, default in _CONVOLUTION.items()
    ):
        return None
    return path, bound["input"]


def _parameter(value: Any) -> str:
    """The path of a parameter that is used as it is."""
    return str(value.node.target) if isinstance(value, fx.Proxy) and value.node.op == "get_attr" else ""


def _pair(value: Any, layer: Any) -> Any:
    count = len(layer.kernel_size)
    return (value,) * count if isinstance(value, int) else value if isinstance(value, str) else tuple(value)

"""What the kinds of nodes compute on floats, for the prepared model and for the float parts of the frozen one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.ir import Node


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
        value: Any = network
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value
    if node.method:
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if isinstance(node.target, str):
        return network.get_submodule(node.target)(*args, **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def max_pool(x: Tensor, **options: Any) -> Tensor:
    """Max-pool over one or two spatial dimensions; also right on codes, since padding never wins."""
    return (F.max_pool1d if x.dim() == 3 else F.max_pool2d)(x, **options)


def global_avg_pool(x: Tensor) -> Tensor:
    """Mean over all dimensions behind the channels, kept as ones."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def layer_forward(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution or linear layer with other parameters than its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    return layer._conv_forward(x, weight, bias)


def batch_norm_of(network: nn.Module, node: Node) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
    """The batch norm fused behind a layer, or None."""
    if node.batch_norm is None:
        return None
    module = network.get_submodule(node.batch_norm)
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    return module


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "input": lambda x: x,
    "add": torch.add,
    "concat": torch.cat,
    "avg_pool": F.avg_pool2d,
    "global_avg_pool": global_avg_pool,
    "requantize": lambda x: x,
    "clip": lambda x: x,
    "max_pool": max_pool,
    "transpose": torch.permute,
}

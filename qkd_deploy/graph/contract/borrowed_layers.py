"""Layers that hold no tensors: their weight is what the network's own parameters are at any time.

A layer that is called as a function becomes such a module beside the code that calls it, so that training and
checkpoints stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class TensorSource(Protocol):
    """Where a layer reads its weight or bias."""

    def read(self) -> Tensor:
        """The tensor as it is now, with its gradient."""

    def exact(self) -> Tensor:
        """The tensor that evaluation mode computes, in float64 where it is computed; without a gradient."""


@dataclass
class NetworkTensor:
    """A parameter or buffer of the network: its module, its name there, and the rows that are used."""

    module: nn.Module
    name: str
    rows: slice

    def read(self) -> Tensor:
        """The tensor as it is now; the parameter itself where all rows are used."""
        tensor: Tensor = getattr(self.module, self.name)
        return tensor if self.rows == slice(None) else tensor[self.rows]

    def exact(self) -> Tensor:
        """The same: nothing is computed."""
        return self.read()


class BorrowingLayer(nn.Module):
    """A layer whose weight and bias are the network's."""

    sources: tuple[TensorSource, TensorSource | None]

    @property
    def weight(self) -> Tensor:
        """The weight as it is now."""
        return self.sources[0].read()

    @property
    def bias(self) -> Tensor | None:
        """The bias as it is now; None without one."""
        return None if self.sources[1] is None else self.sources[1].read()


class _Linear(BorrowingLayer, nn.Linear):  # type: ignore[misc, override]
    pass


class _Conv1d(BorrowingLayer, nn.Conv1d):  # type: ignore[override]
    pass


class _Conv2d(BorrowingLayer, nn.Conv2d):  # type: ignore[override]
    pass


def borrowed_linear(shape: torch.Size) -> Any:
    """Make a linear layer for weights of a shape; its ``sources`` are to be set."""
    return _borrowing(_Linear, nn.Linear(shape[1], shape[0], device="meta"))


def borrowed_convolution(shape: torch.Size, options: dict[str, Any]) -> Any:
    """Make a convolution for weights of a shape and options of ``F.conv2d``; its ``sources`` are to be set."""
    plain, kind = (nn.Conv1d, _Conv1d) if len(shape) == 3 else (nn.Conv2d, _Conv2d)
    groups = options.get("groups", 1)
    outputs, inputs, *kernel = shape
    return _borrowing(kind, plain(inputs * groups, outputs, tuple(kernel), **options, device="meta"))  # type: ignore[arg-type]


def _borrowing(kind: type[nn.Module], layer: nn.Module) -> nn.Module:
    """A layer without tensors of its own; PyTorch's constructor would want to set them."""
    del layer.weight, layer.bias
    layer.__class__ = kind
    return layer


def equal_layer(holder: nn.Module, layer: BorrowingLayer) -> str | None:
    """Find the child of a module that is the same layer of the same tensors: its name, or None."""
    for name, child in holder.named_children():
        if isinstance(child, BorrowingLayer) and child.sources == layer.sources and repr(child) == repr(layer):
            return name
    return None


def exact_parameters(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Read the weight, float32, and the bias of any layer so that every machine reads the same bits."""
    if not isinstance(layer, BorrowingLayer):
        return layer.weight, layer.bias
    weight, bias = layer.sources
    return weight.exact().float(), None if bias is None else bias.exact()


def has_computed_weight(layer: nn.Module) -> bool:
    """Tell whether nothing can be written into a layer's weight: it is computed whenever it is read."""
    return isinstance(layer, BorrowingLayer) and not isinstance(layer.sources[0], NetworkTensor)

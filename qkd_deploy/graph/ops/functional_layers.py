"""Convolutions and linear layers written as functions of the network's own tensors, as modules.

The module stands beside the code that calls the function. It holds nothing: its weight is what the network's own
parameter, or some rows of it, is at any time, so that training and checkpoints stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.lowering import Rules

_PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass
class _Source:
    """A parameter or buffer of the network: its module, its name there, and the rows that are used."""

    module: nn.Module
    name: str
    rows: slice

    def read(self) -> Tensor:
        """The tensor as it is now; the parameter itself where all rows are used."""
        tensor: Tensor = getattr(self.module, self.name)
        return tensor if self.rows == slice(None) else tensor[self.rows]


class _Borrowing(nn.Module):
    """A layer whose weight and bias are the network's."""

    sources: tuple[_Source, _Source | None]

    @property
    def weight(self) -> Tensor:
        return self.sources[0].read()

    @property
    def bias(self) -> Tensor | None:
        return None if self.sources[1] is None else self.sources[1].read()


class _Linear(_Borrowing, nn.Linear):  # type: ignore[misc, override]
    pass


class _Conv1d(_Borrowing, nn.Conv1d):  # type: ignore[override]
    pass


class _Conv2d(_Borrowing, nn.Conv2d):  # type: ignore[override]
    pass


class FunctionalRules(Rules):
    """Handlers of ``F.linear`` and ``F.conv2d``."""

    def _functional_layer(self, node: Node, target: Any) -> str:
        bound = {**dict(zip(_PARAMETERS, node.args, strict=False)), **node.kwargs}
        weight, bias = self._source(bound["weight"]), self._source(bound.get("bias"))
        if weight is None or (bound.get("bias") is not None and bias is None):
            return "a layer whose weights are computed has no place for a quantizer"
        options = {name: bound[name] for name in _PARAMETERS[3:] if name in bound}
        shape = weight.read().shape
        layer = _linear(shape) if target is torch.nn.functional.linear else _convolution(shape, options)
        if not isinstance(layer, nn.Linear) and self._rank(bound["input"]) != len(shape):
            return "a convolution of an unbatched tensor has no integer kernel"
        layer.sources = (weight, bias)
        self.model.get_submodule(node.module).add_module(node.name, layer)
        self._settle(node, "linear" if isinstance(layer, nn.Linear) else "conv", (bound["input"],))
        node.target = f"{node.module}.{node.name}" if node.module else node.name
        return ""

    def _source(self, value: Any) -> _Source | None:
        """The parameter or buffer, or rows of one, that an argument is; None for computed tensors."""
        node = self.graph.node(value.name) if isinstance(value, Ref) else None
        rows = slice(None)
        if node is not None and node.kind == "slice" and len(node.kwargs["ranges"]) == 1:
            dim, *bounds = node.kwargs["ranges"][0]
            node, rows = self.graph.node(node.inputs[0]) if dim == 0 else None, slice(*bounds)
        if node is None or node.kind != "constant":
            return None
        path, _, name = str(node.target).rpartition(".")
        return _Source(self.model.get_submodule(path), name, rows)


def _linear(shape: torch.Size) -> Any:
    return _borrowing(_Linear, nn.Linear(shape[1], shape[0], device="meta"))


def _convolution(shape: torch.Size, options: dict[str, Any]) -> Any:
    plain, kind = (nn.Conv1d, _Conv1d) if len(shape) == 3 else (nn.Conv2d, _Conv2d)
    groups = options.get("groups", 1)
    outputs, inputs, *kernel = shape
    return _borrowing(kind, plain(inputs * groups, outputs, tuple(kernel), **options, device="meta"))  # type: ignore[arg-type]


def _borrowing(kind: type[nn.Module], layer: nn.Module) -> nn.Module:
    """A layer without tensors of its own; PyTorch's constructor would want to set them."""
    del layer.weight, layer.bias
    layer.__class__ = kind
    return layer

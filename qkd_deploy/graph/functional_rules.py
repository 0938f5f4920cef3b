"""Convolutions and linear layers written as functions of the network's own tensors, as modules.

The module stands beside the code that calls the function and holds the same parameter, so that it trains as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.rules import Rules

_PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class FunctionalRules(Rules):
    """Handlers of ``F.linear`` and ``F.conv2d``."""

    def _functional_layer(self, node: Node, target: Any) -> str:
        bound = {**dict(zip(_PARAMETERS, node.args, strict=False)), **node.kwargs}
        weight, bias = self._own(bound["weight"]), self._own(bound.get("bias"))
        if weight is None or (bound.get("bias") is not None and bias is None):
            return "a layer whose weights are computed has no place for a quantizer"
        options = {name: bound[name] for name in _PARAMETERS[3:] if name in bound}
        layer = _linear(weight) if target is torch.nn.functional.linear else _convolution(weight, options)
        if not isinstance(layer, nn.Linear) and self._rank(bound["input"]) != weight.dim():
            return "a convolution of an unbatched tensor has no integer kernel"
        for name, value in (("weight", weight), ("bias", bias)):
            _give(layer, name, value)
        owner = self.model.get_submodule(node.module)
        owner.add_module(node.name, layer)
        self._settle(node, "layer", (bound["input"],))
        node.target = f"{node.module}.{node.name}" if node.module else node.name
        return ""

    def _own(self, value: Any) -> Tensor | None:
        """The parameter or buffer that an argument is; None for computed tensors."""
        if not isinstance(value, Ref) or self.graph.node(value.name).kind != "constant":
            return None
        found: Any = self.model
        for part in str(self.graph.node(value.name).target).split("."):
            found = getattr(found, part)
        return found if isinstance(found, Tensor) else None


def _linear(weight: Tensor) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], device="meta")


def _convolution(weight: Tensor, options: dict[str, Any]) -> nn.Module:
    kind = nn.Conv1d if weight.dim() == 3 else nn.Conv2d
    groups = options.get("groups", 1)
    outputs, inputs, *kernel = weight.shape
    return kind(inputs * groups, outputs, tuple(kernel), **options, device="meta")  # type: ignore[arg-type]


def _give(layer: nn.Module, name: str, value: Tensor | None) -> None:
    """Let a layer use a tensor as its weight or bias: parameters are shared, buffers stay out of checkpoints."""
    delattr(layer, name)
    if value is None or isinstance(value, nn.Parameter):
        layer.register_parameter(name, value)
    else:
        layer.register_buffer(name, value, persistent=False)

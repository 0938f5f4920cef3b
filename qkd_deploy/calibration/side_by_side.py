"""Run the network in full precision and the quantized one side by side, and make them alike layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qkd_deploy.calibration.compensated_rounding import rounded_weight
from qkd_deploy.calibration.second_moments import second_moments
from qkd_deploy.graph.contract.evaluation import attribute_at
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import apply
from qkd_deploy.graph.ops.layers import batch_norm_of, layer_in_float, layer_of, layer_parameters
from qkd_deploy.graph.prepared import PreparedModel


class SideBySide:
    """Run a node in full precision, then quantized with a weight that makes both alike.

    Attributes:
        chosen: the present node is a layer to reconstruct.
    """

    def __init__(self, prepared: PreparedModel, generator: torch.Generator) -> None:
        self.chosen = False
        self._prepared = prepared
        self._generator = generator
        self._input = torch.empty(0)
        self._weight = torch.empty(0)
        self._bias: Tensor | None = None

    def run_full(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a node without quantizers, and remember what a layer read and computed with."""
        network = self._prepared.network
        if not node.is_layer:
            value = apply(network, node, args, kwargs, training=False)
        else:
            value = layer_in_float(network, node, args[0])
            if self.chosen:
                weight, bias = layer_parameters(network, node)
                self._input, self._weight, self._bias = args[0], weight.clone(), None if bias is None else bias.clone()
        return value if node.clip is None else value.clamp(*node.clip)

    def run_quantized(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Reconstruct a layer, then run the node as ``prepared`` does."""
        if self.chosen:
            self._reconstruct(node, args[0])
        return self._prepared.evaluate(node, args, kwargs)

    def _reconstruct(self, node: Node, x: Tensor) -> None:
        prepared, layer = self._prepared, layer_of(self._prepared.network, node)
        moments = second_moments(layer, x, self._input, self._generator)
        quantizer, groups = prepared.weight(node), moments.mean.shape[0]
        weight = self._weight.view(groups, -1, moments.mean.shape[1])
        scale = quantizer.scale().expand(len(self._weight)).view(groups, -1)
        rounded = rounded_weight(weight, moments, scale, quantizer.spec.lo, quantizer.spec.hi).view_as(self._weight)
        gain = 1.0 if node.gain is None else attribute_at(prepared.network, node.gain)
        layer.weight.copy_(rounded / gain)
        written, bias = layer_parameters(prepared.network, node)
        before = _means(weight, moments.float_mean, self._bias)
        _move_mean(prepared, node, before - _means(written.view_as(weight), moments.mean, bias))
        self._input = self._weight = torch.empty(0)


def _means(weight: Tensor, mean: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the mean outputs [G * outputs] of a layer from those of its columns."""
    means = (weight.double() @ mean.unsqueeze(2)).flatten().float()
    return means if bias is None else means + bias


def _move_mean(prepared: PreparedModel, node: Node, shift: Tensor) -> None:
    """Add ``shift`` [outputs] to what a layer gives, where it has something to add it to."""
    batch_norm = batch_norm_of(prepared.network, node)
    bias = layer_of(prepared.network, node).bias
    if batch_norm is not None and batch_norm.running_mean is not None:
        batch_norm.running_mean -= shift
    elif bias is not None:
        bias += shift

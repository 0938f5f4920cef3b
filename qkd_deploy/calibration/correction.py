"""Give every output channel of a layer the mean and the spread back that it had in float.

Rounded weights, clipped inputs and whatever was lost in the layers in front move both. The bias takes the mean (Nagel
et al. 2019, arXiv:1906.04721, section 4.2), the gain of a batch norm the spread (Banner et al. 2019, arXiv:1810.05723,
do so for weights), at no cost in the deployed model. In depthwise layers, whose channels sum few products, the mean is
most of the damage of rounding; at 6 bits and fewer the spread matters as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.calibration.float_reference import FloatReference
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import affine_of, batch_norm_of, channel_dim, layer_of
from qkd_deploy.graph.prepared import PreparedModel

_MOST = 2.0
"""Channels whose spread changed by more than this factor are dead on one side; the gain follows no further."""


@dataclass
class _Moments:
    """Mean and variance of channels over all batches so far; sums are float64 ``[C]``."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.count += count
        self.total = self.total + mean * count
        self.squares = self.squares + (variance + mean.square()) * count

    @property
    def mean(self) -> Tensor:
        assert isinstance(self.total, Tensor)
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp(min=0)


@dataclass
class _Output:
    """What moves the output channels of a layer, and how they are moved: ``factor * output + offset``.

    Attributes:
        bias: ``[C]``, of the network.
        per_unit: what has to be added to it to move the output by 1.
        gain: ``[C]``, of the batch norm; None where there is none that is learned.
        bias_before, gain_before: what was in them.
        floats, uncorrected: of the float network's output, and of this one without correction.
    """

    bias: Tensor
    per_unit: Tensor | float
    gain: Tensor | None
    factor: Tensor = field(init=False)
    offset: Tensor = field(init=False)
    floats: _Moments = field(default_factory=_Moments)
    uncorrected: _Moments = field(default_factory=_Moments)

    def __post_init__(self) -> None:
        self.bias_before = self.bias.double()
        self.gain_before = 1.0 if self.gain is None else self.gain.double()
        self.factor, self.offset = torch.ones_like(self.bias_before), torch.zeros_like(self.bias_before)

    def update(self, floats: Tensor, value: Tensor, dim: int) -> None:
        """Take in a batch of outputs, which the correction so far has moved already; channels are in ``dim``."""
        mean, variance, count = _moments(floats, dim)
        self.floats.update(mean, variance, count)
        mean, variance, _ = _moments(value, dim)
        self.uncorrected.update((mean - self.offset) / self.factor, variance / self.factor.square(), count)
        if self.gain is not None:
            self.factor = _factor(self.floats.variance, self.uncorrected.variance)
            self.gain.copy_(self.gain_before * self.factor)
        self.offset = self.floats.mean - self.factor * self.uncorrected.mean
        self.bias.copy_(self.bias_before * self.factor + self.per_unit * self.offset)


def _moments(value: Tensor, dim: int) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of every channel, float64, and the number of values in one."""
    columns = value if dim == 1 else value.flatten(0, -2)
    mean, variance = torch.batch_norm_update_stats(columns, None, None, 0.0)  # a third of the time of torch.var_mean
    return mean.double(), variance.double(), value.numel() // len(mean)


def _factor(wanted: Tensor, variance: Tensor) -> Tensor:
    known = (wanted > 0) & (variance > 0)
    return torch.where(known, wanted / variance, 1.0).sqrt().clamp(1 / _MOST, _MOST)


class OutputCorrection:
    """Corrects the layers of a prepared model while batches run through it beside its float network.

    Each layer is corrected by what all batches so far show before its output is passed on, so that the layers behind it
    are corrected on what they will read. Layers without any bias stay as they are.
    """

    def __init__(self, prepared: PreparedModel, reference: FloatReference) -> None:
        """Correct ``prepared`` towards ``reference``."""
        self._prepared = prepared
        self._reference = reference
        self._outputs: dict[int, _Output] = {}  # by the address of the bias, which calls of one layer share

    @torch.no_grad()
    def run(self, inputs: tuple[Any, ...], finish: Callable[[Node, Any], Any]) -> None:
        """Run a batch; ``finish`` takes a node and its value before its clip, and returns what is passed on."""
        prepared = self._prepared.at(inputs)

        def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], floats: Tensor | None) -> Any:
            value = prepared.unclipped(node, args, kwargs)
            return finish(node, value if floats is None else self._corrected(node, value, floats))

        self._reference.run_beside(inputs, run_node)

    def _corrected(self, node: Node, value: Tensor, floats: Tensor) -> Tensor:
        output = self._output_of(node)
        if output is None:
            return value
        dim = channel_dim(layer_of(self._prepared.network, node))
        factor, offset = output.factor, output.offset
        output.update(floats, value, dim)
        factor = output.factor / factor
        return value.mul_(_along(factor, value, dim)).add_(_along(output.offset - factor * offset, value, dim))

    def _output_of(self, node: Node) -> _Output | None:
        bias, per_unit, gain = _handles(self._prepared.network, node)
        if bias is None:
            return None
        if bias.data_ptr() not in self._outputs:
            self._outputs[bias.data_ptr()] = _Output(bias, per_unit, gain)
        return self._outputs[bias.data_ptr()]


def _handles(network: nn.Module, node: Node) -> tuple[Tensor | None, Tensor | float, Tensor | None]:
    """The tensor that is added to a layer's output, what moves the output by 1 in it, and a batch norm's gain.

    Constants behind the layer multiply the tensor, which then is not moved where they are zero. Behind a batch norm
    they are left alone.
    """
    batch_norm, affine = batch_norm_of(network, node), affine_of(network, node)
    if affine is not None:
        factor, _ = affine.exact_pair()
        per_unit = torch.where(factor == 0, 0.0, 1 / factor)
        return (layer_of(network, node).bias if batch_norm is None else None), per_unit, None
    if batch_norm is None:
        return layer_of(network, node).bias, 1.0, None
    if batch_norm.affine:
        return batch_norm.bias, 1.0, batch_norm.weight
    assert batch_norm.running_mean is not None and batch_norm.running_var is not None
    return batch_norm.running_mean, -torch.sqrt(batch_norm.running_var.double() + batch_norm.eps), None


def _along(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """Shape one value a channel so that it broadcasts over ``like``, in its type."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 2 if dim == 1 else 0))

"""The effect of a network's quantizers on its tensors: step sizes, codes, and how much is clipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qkd_deploy.bits import TensorSpec
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.ops.layers import layer_parameters
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.base import along_channels
from qkd_deploy.training.monitoring.metrics import EpochRecord


@dataclass(frozen=True)
class TensorObservation:
    """One quantized tensor.

    Attributes:
        name: of an activation, its name in reports and in the exported file; of weights, ``MODULE.weight``.
        kind: what it is.
        bits: of its codes.
        lo: the smallest centered code.
        scale: the step size, in units of the tensor; the geometric mean where each channel has its own.
        movement: ``log(scale / scale_before)``, the relative movement since the last observation.
        counts: how often each centered code ``lo, lo + 1, ...`` occurs. Values that are not numbers have no code.
        below, above: share of the values whose nearest code lies below or above the grid.
    """

    name: str
    kind: Literal["weight", "activation"]
    bits: int
    lo: int
    scale: float
    movement: float
    counts: tuple[int, ...]
    below: float
    above: float

    @property
    def clipped(self) -> float:
        """Share of the values that were clipped."""
        return self.below + self.above

    @property
    def levels_used(self) -> float:
        """Share of the codes that occur."""
        return sum(count > 0 for count in self.counts) / len(self.counts)


@dataclass(frozen=True)
class Observation:
    """All quantized tensors: the weights in execution order, then the activations."""

    tensors: tuple[TensorObservation, ...]

    def added_to(self, record: EpochRecord) -> EpochRecord:
        """The record of the epoch that was just finished, with what was observed after it."""
        return replace(
            record,
            steps={tensor.name: float(f"{tensor.scale:.6g}") for tensor in self.tensors},
            clipped={tensor.name: round(tensor.clipped, 6) for tensor in self.tensors},
            levels_used={tensor.name: round(tensor.levels_used, 6) for tensor in self.tensors},
        )


@dataclass(frozen=True)
class _Measured:
    """One quantizer's effect, still on the device: ``counts`` is int64 [2 + levels]: below, above, each code."""

    name: str
    kind: Literal["weight", "activation"]
    spec: TensorSpec
    values: int
    scale: Tensor
    counts: Tensor


class QuantizerMonitor:
    """Looks at the quantizers of a prepared model without disturbing its training.

    Args:
        prepared: the model itself, not a compiled or distributed wrapper. Movement is counted from its present steps:
            where a run is continued, make the observer after the checkpoint is loaded.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        self._prepared = prepared
        self._before = self._scales()

    def observe(self, *inputs: Tensor) -> Observation:
        """Evaluate the model once, in evaluation mode and without gradients.

        Modes, statistics and torch's random state are afterwards as they were.

        Args:
            inputs: a batch as the network takes it, on the network's device; the same one every time makes
                observations comparable.
        """
        with _undisturbed(self._prepared, inputs[0].device):
            measured = [*self._weights(), *self._activations(inputs)]
        # everything crosses from the device in two transfers
        scales = torch.stack([one.scale for one in measured]).tolist()
        counts = iter(torch.cat([one.counts for one in measured]).tolist())
        tensors = [
            self._observation(one, scale, list(islice(counts, len(one.counts))))
            for one, scale in zip(measured, scales, strict=True)
        ]
        self._before = {tensor.name: tensor.scale for tensor in tensors}
        return Observation(tuple(tensors))

    def _observation(self, measured: _Measured, scale: float, counts: list[int]) -> TensorObservation:
        below, above, *codes = counts
        return TensorObservation(
            name=measured.name,
            kind=measured.kind,
            bits=measured.spec.bits,
            lo=measured.spec.lo,
            scale=scale,
            movement=math.log(scale / self._before[measured.name]),
            counts=tuple(codes),
            below=below / measured.values,
            above=above / measured.values,
        )

    def _layers(self) -> dict[str, Node]:
        """The layers by the name of their weights; one that is called twice has one set of weights."""
        return {f"{node.target}.weight": node for node in self._prepared.layers()}

    @torch.no_grad()
    def _scales(self) -> dict[str, float]:
        prepared = self._prepared
        steps = {name: _mean(prepared.weight(node).scale()) for name, node in self._layers().items()}
        quantized = [(node.name, node.quantizer) for node in prepared.graph.nodes if node.quantizer is not None]
        steps |= {name: _mean(prepared.activation(key).scale()) for name, key in quantized}
        return dict(zip(steps, torch.stack(list(steps.values())).tolist(), strict=True))

    def _weights(self) -> Iterator[_Measured]:
        for name, node in self._layers().items():
            weight, _ = layer_parameters(self._prepared.network, node)
            yield _measure(name, "weight", self._prepared.weight(node), weight)

    def _activations(self, inputs: tuple[Tensor, ...]) -> list[_Measured]:
        measured: list[_Measured] = []

        def observe(node: Node, value: Any) -> None:
            if node.quantizer is not None:
                quantizer = self._prepared.activation(node.quantizer)
                measured.append(_measure(node.name, "activation", quantizer, value))

        self._prepared.run_observed(inputs, observe)
        return measured


def _measure(name: str, kind: Literal["weight", "activation"], quantizer: Any, value: Tensor) -> _Measured:
    """Count the codes of a tensor, and its values whose nearest code lies beyond the grid."""
    spec, scale = quantizer.spec, quantizer.scale()
    nearest = torch.round(value.float() / along_channels(scale, value))
    codes = quantizer.codes(value)
    codes = codes[~codes.isnan()].long() - spec.lo
    counts = torch.cat(
        [
            torch.stack([(nearest < spec.lo).sum(), (nearest > spec.hi).sum()]),
            torch.bincount(codes, minlength=spec.hi - spec.lo + 1),
        ]
    )
    return _Measured(name, kind, spec, value.numel(), _mean(scale), counts)


def _mean(scales: Tensor) -> Tensor:
    """The geometric mean; a single scale as it is."""
    return scales if scales.dim() == 0 else scales.log().mean().exp()


@contextmanager
def _undisturbed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; modes and torch's random state are given back."""
    devices = [device] if device.type == "cuda" else []
    with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices):
        yield

"""The effect of a network's quantizers on its tensors: step sizes, codes, and how much is clipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from qkd_deploy.training.monitoring.observation import Observation, TensorObservation


@dataclass(frozen=True)
class _Measured:
    """One quantizer's effect, still on the device.

    ``counts`` is int64 [2 + levels]: below, above, each code. ``numbers`` is float32 [3]: the scale, the energy of the
    values, and that of the noise.
    """

    name: str
    kind: Literal["weight", "activation"]
    spec: TensorSpec
    values: int
    numbers: Tensor
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
            return self._observed([*self._weights(), *self._activations(inputs)])

    def observe_weights(self) -> Observation:
        """Look at the weights alone, for which no images are needed."""
        with torch.no_grad():
            return self._observed(list(self._weights()))

    def _observed(self, measured: list[_Measured]) -> Observation:
        # everything crosses from the device in two transfers
        numbers = torch.stack([one.numbers for one in measured]).tolist()
        counts = iter(torch.cat([one.counts for one in measured]).tolist())
        tensors = [
            self._observation(one, of_tensor, list(islice(counts, len(one.counts))))
            for one, of_tensor in zip(measured, numbers, strict=True)
        ]
        self._before |= {tensor.name: tensor.scale for tensor in tensors}
        return Observation(tuple(tensors))

    def _observation(self, measured: _Measured, numbers: list[float], counts: list[int]) -> TensorObservation:
        below, above, *codes = counts
        scale, signal, noise = numbers
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
            snr=_decibels(signal, noise),
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
    value, step = value.float(), along_channels(scale, value)
    nearest = torch.round(value / step)
    codes = quantizer.codes(value)
    energies = value.square().nansum(), (value - codes * step).square().nansum()
    codes = codes[~codes.isnan()].long() - spec.lo
    counts = torch.cat(
        [
            torch.stack([(nearest < spec.lo).sum(), (nearest > spec.hi).sum()]),
            torch.bincount(codes, minlength=spec.hi - spec.lo + 1),
        ]
    )
    return _Measured(name, kind, spec, value.numel(), torch.stack([_mean(scale), *energies]), counts)


def _decibels(signal: float, noise: float) -> float:
    if not signal > 0:
        return math.nan
    return 10 * math.log10(signal / noise) if noise > 0 else math.inf


def _mean(scales: Tensor) -> Tensor:
    """The geometric mean; a single scale as it is."""
    return scales if scales.dim() == 0 else scales.log().mean().exp()


@contextmanager
def _undisturbed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; modes and torch's random state are given back."""
    devices = [device] if device.type == "cuda" else []
    with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices):
        yield

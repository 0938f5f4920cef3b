"""Say in which layers the bits are too few: where channels keep hardly any codes, and where noise drowns the output.

Two rules, both about a layer by itself, so that what is lost in front of it does not count:

- *Codes*: a channel whose largest code is below 4 keeps fewer than eight distinct codes; it is named where the grid of
  the layer has eight or more. Dead channels, whose weights behind the batch norm are below a ten-thousandth of the
  layer's largest, lose nothing and are left out.
- *Noise*: the layer on quantized inputs, with quantized weights, against the same layer in float. Signal is the part of
  the variance of the float output that the quantized output explains, but for a factor and an offset of each channel,
  which gain and bias take; noise is the rest. Below ``FLOOR`` decibels it has more than a tenth of the signal's power.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.bits import BitWidths, keep_in_float
from qkd_deploy.calibration.float_reference import FloatReference
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import affine_of, batch_norm_of, channel_dim, layer_of, layer_parameters
from qkd_deploy.graph.prepared import PreparedModel

FLOOR = 10.0
"""Decibels."""
FEWEST_CODES = 8
_SMALLEST = 1e-30
_DEAD = 1e-4
_NAMED = 8
"""Layers, and channels of a layer, that are named; of the others the number is given."""


@dataclass(frozen=True)
class CoarseLayer:
    """A layer with channels that keep fewer than eight codes of those that its bits allow.

    Attributes:
        layer: its path.
        channels: their numbers, rising.
        codes: the largest distinct codes that each can have, such as 3 for a channel with codes -1, 0 and 1.
        possible: codes that the grid has.
        of: channels of the layer.
        own_scales: True where every channel has a scale of its own already.
    """

    layer: str
    channels: tuple[int, ...]
    codes: tuple[int, ...]
    possible: int
    of: int
    own_scales: bool

    def __str__(self) -> str:
        named = ", ".join(f"{c} ({n})" for c, n in zip(self.channels[:_NAMED], self.codes, strict=False))
        rest = len(self.channels) - _NAMED
        more = f" and {rest} more" if rest > 0 else ""
        advice = "calibrate with method='mse' (--calibrate-method mse on the command line)"
        if not self.own_scales:
            advice = "prepare with weight_scales='channel' (--weight-scales channel on the command line)"
        return (
            f"{self.layer}: {len(self.channels)} of {self.of} channels keep fewer than {FEWEST_CODES} codes of "
            f"{self.possible}: channel {named}{more}; {advice}"
        )


@dataclass(frozen=True)
class NoisyLayer:
    """A layer whose output is noise by a tenth or more.

    Attributes:
        layer: its path.
        decibels: signal-to-noise ratio.
        bits: of its weights and its input.
    """

    layer: str
    decibels: float
    bits: BitWidths

    def __str__(self) -> str:
        found = f"{self.layer}: {self.decibels:.1f} dB of signal over noise at {self.bits}, below {FLOOR:g} dB"
        most = BitWidths(8, self.bits.activation if self.bits.weights_only else 8)
        if self.bits == most:
            return f"{found}; train, or {keep_in_float(self.layer)}"
        return (
            f"{found}; train, or give it more bits: overrides={{{self.layer!r}: '{most}'}}, or "
            f"--bits-for '{self.layer}={most}' on the command line"
        )


@dataclass(frozen=True)
class Diagnosis:
    """What was found, the worst first."""

    coarse: tuple[CoarseLayer, ...]
    noisy: tuple[NoisyLayer, ...]

    def lines(self) -> list[str]:
        """One line a layer, and one for those that are too many to name."""
        return [*_bounded(self.coarse, "with coarse channels"), *_bounded(self.noisy, f"below {FLOOR:g} dB")]


def _bounded(found: tuple[CoarseLayer, ...] | tuple[NoisyLayer, ...], what: str) -> list[str]:
    rest = len(found) - _NAMED
    return [*map(str, found[:_NAMED]), *([f"{rest} more layers {what}"] if rest > 0 else [])]


@torch.no_grad()
def diagnose(prepared: PreparedModel, reference: FloatReference, inputs: tuple[Any, ...]) -> Diagnosis:
    """Look at every layer of a calibrated model, in evaluation mode, on some inputs."""
    ratios: dict[str, NoisyLayer] = {}

    def observe(node: Node, x: Tensor, floats: Tensor) -> None:
        value = prepared.unclipped(node, (_quantized(prepared, node.source, x),), {})
        dim = channel_dim(layer_of(prepared.network, node))
        decibels = _decibels(floats, value, dim)
        known = ratios.get(str(node.target))
        if decibels < FLOOR and (known is None or decibels < known.decibels):
            ratios[str(node.target)] = NoisyLayer(str(node.target), decibels, prepared.layer_bits[node.name])

    reference.run(inputs, observe)
    coarse = {layer.layer: layer for node in prepared.layers() if (layer := _coarse(prepared, node)) is not None}
    return Diagnosis(
        tuple(sorted(coarse.values(), key=lambda layer: -len(layer.channels) / layer.of)),
        tuple(sorted(ratios.values(), key=lambda layer: layer.decibels)),
    )


def _coarse(prepared: PreparedModel, node: Node) -> CoarseLayer | None:
    quantizer = prepared.weight(node)
    possible = quantizer.spec.hi - quantizer.spec.lo + 1
    if quantizer.fixed or possible < FEWEST_CODES:
        return None
    weight, _ = layer_parameters(prepared.network, node)
    codes = 2 * quantizer.codes(weight).abs().flatten(1).amax(1).int() + 1
    size = weight.abs().flatten(1).amax(1) * _gain(prepared.network, node)
    few = ((codes < FEWEST_CODES) & (size > _DEAD * size.max())).nonzero().flatten()
    if not len(few):
        return None
    own_scales = quantizer.channels is not None
    return CoarseLayer(
        str(node.target), tuple(few.tolist()), tuple(codes[few].tolist()), possible, len(codes), own_scales
    )


def _gain(network: nn.Module, node: Node) -> Tensor | float:
    """What the batch norm and the constants behind a layer multiply each channel by, in magnitude."""
    batch_norm, affine = batch_norm_of(network, node), affine_of(network, node)
    factor = 1.0 if affine is None else affine.pair()[0].abs()
    if batch_norm is None or batch_norm.running_var is None:
        return factor
    sigma = torch.sqrt(batch_norm.running_var + batch_norm.eps)
    return factor * batch_norm.weight.abs() / sigma if batch_norm.affine else factor / sigma


def _quantized(prepared: PreparedModel, source: str | None, x: Tensor) -> Tensor:
    """What a layer reads of its float input ``x``, as the quantizer with that key rounds it."""
    if source is None:
        return x
    if source in prepared.rescaled:
        other, factor = prepared.rescaled[source]
        return _quantized(prepared, other, x / factor) * factor
    return prepared.activation(source)(x)  # type: ignore[no-any-return]


def _decibels(floats: Tensor, quantized: Tensor, dim: int) -> float:
    """The signal-to-noise ratio of a layer whose channels are in ``dim``."""
    x, y = (_centred(value, dim) for value in (floats, quantized))
    power, explained = x.square().sum(1), (x * y).sum(1).square() / y.square().sum(1).clamp(min=_SMALLEST)
    signal, noise = float(explained.sum()), float((power - explained).sum())
    return 10 * math.log10(max(signal, _SMALLEST) / max(noise, _SMALLEST))


def _centred(value: Tensor, dim: int) -> Tensor:
    """The values of every channel without their mean, float64 ``[C, values]``."""
    rows = value.movedim(dim, 0).flatten(1).double()
    return rows - rows.mean(1, keepdim=True)

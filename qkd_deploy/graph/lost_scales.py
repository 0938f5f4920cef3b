"""Scales that training lost: no longer finite, or a factor of 100 away from where they began or from their weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from qkd_deploy.errors import QuantizationWarning, UserError
from qkd_deploy.quantizers.base import Quantizer
from qkd_deploy.quantizers.learned_range import LearnedRange, move_by

FAR = 100.0
"""A scale that is this many times too wide or too narrow leaves its tensor hardly more than one code."""


def are_near(moves: Sequence[Tensor]) -> bool:
    """Say in one comparison if all moves of learned ranges are finite and below a factor of ``FAR``."""
    return not moves or bool((torch.cat([move.detach().flatten() for move in moves]).abs() < move_by(FAR)).all())


def lost_scales(quantizers: Mapping[str, Quantizer]) -> UserError:
    """Name the first of the scales that are not near, and the likely reason; quantizers are by their names there."""
    lost = [sentence for name, quantizer in quantizers.items() for sentence in _lost(name, quantizer)]
    return UserError(f"training lost {_first(lost)}")


def _lost(name: str, quantizer: Quantizer) -> Iterator[str]:
    for learned in quantizer.children():
        if not isinstance(learned, LearnedRange) or are_near([learned.move]):
            continue
        if not bool(torch.isfinite(learned.move).all()):
            yield (
                f"the scale of {name}, which is not finite, because the loss or a gradient was not; train anew with a "
                "lower learning rate (--lr) or with clipped gradients (--clip-norm)"
            )
            continue
        index = int(learned.move.abs().argmax())
        before, now = learned.start.flatten()[index].item(), learned.value().detach().flatten()[index].item()
        yield (
            f"the scale of {name}, which went from {before:.3g} to {now:.3g}; train anew with a lower learning rate "
            "(--lr) or, in a loop of your own, initialize with a batch like those that are trained on"
        )


def warn_of_far_weights(layers: Mapping[str, tuple[Tensor, Quantizer]]) -> None:
    """Warn of layers whose scales are a factor of ``FAR`` too wide or too narrow for their weights.

    Args:
        layers: weights, output channels first, and their quantizer, by the names that messages use.
    """
    far = [sentence for name, (weight, quantizer) in layers.items() for sentence in _far(name, weight, quantizer)]
    if far:
        warnings.warn(_first(far), QuantizationWarning, stacklevel=3)


def _far(name: str, weight: Tensor, quantizer: Quantizer) -> Iterator[str]:
    largest = weight.detach().abs().max().item()
    extent = quantizer.scale().detach().max().item() * quantizer.spec.hi
    if largest > 0 and not extent / FAR < largest < extent * FAR:
        kind = "wide" if extent > largest else "narrow"
        yield (
            f"the scale of {name} is {max(extent / largest, largest / extent):.0f} times too {kind} for its weights; "
            "calibrate or initialize after the weights are loaded, or train it at a lower learning rate"
        )


def _first(sentences: list[str]) -> str:
    more = len(sentences) - 1
    return sentences[0] + (f" (and {more} more)" if more else "")

"""Scales of prepared networks, set by hand."""

from __future__ import annotations

from torch import nn

from qkd_deploy.quantizers.base import Quantizer


def learned(*holders: nn.ModuleDict) -> list[Quantizer]:
    """The quantizers in ``prepared.weights`` or ``prepared.activations`` whose scale is learned, in their order."""
    quantizers = [quantizer for holder in holders for quantizer in holder.values()]
    return [quantizer for quantizer in quantizers if isinstance(quantizer, Quantizer) and quantizer.learned()]


def multiply(quantizer: Quantizer, factor: float) -> None:
    """Make all scales of a quantizer ``factor`` times what they are."""
    quantizer.set_scale(quantizer.scale().detach() * factor)

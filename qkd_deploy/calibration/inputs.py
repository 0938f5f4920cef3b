"""Bring a user's batches into the form that a prepared network is called with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepared import PreparedModel


def network_inputs(prepared: PreparedModel, batch: Any) -> tuple[Any, ...]:
    """Take the network's inputs from a batch, on the network's device.

    Args:
        prepared: decides how many inputs there are.
        batch: a tensor, or a tuple that begins with the inputs, such as (images, labels).

    Raises:
        UserError: an input that gets quantized holds integers, such as raw pixels.
    """
    device = next(prepared.parameters()).device
    values = (batch,) if isinstance(batch, Tensor) else tuple(batch)[: len(prepared.graph.inputs)]
    for name, value in zip(prepared.graph.inputs, values, strict=False):
        if isinstance(value, Tensor) and not value.is_floating_point() and prepared.graph.node(name).quantizer:
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"a batch holds {kind} values; give floats, normalised as the network takes them")
    return tuple(value.to(device) if isinstance(value, Tensor) else value for value in values)


def evenly_spaced(count: int, length: int) -> Tensor:
    """Choose ``count`` of ``length`` images (all where there are fewer), as indices int64.

    Evenly spaced, because many data sets are sorted by class.
    """
    count = min(count, length)
    return torch.arange(count) * length // count

"""Bring a user's batches into the form that a prepared network is called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        UserError: it holds no samples, or something else than tensors for the inputs; or an input that gets quantized
            holds integers, such as raw pixels.
    """
    names = prepared.graph.inputs
    given = (batch,) if isinstance(batch, Tensor) else tuple(batch) if isinstance(batch, (tuple, list)) else ()
    values = given[: len(names)]
    if len(values) < len(names) or not all(isinstance(value, Tensor) for value in values):
        wanted = f"a tensor for each input of the network ({', '.join(names)}), normalised as it takes them"
        raise UserError(f"a batch is {_in_words(batch)}; give {wanted}")
    device = next(prepared.parameters()).device
    for name, value in zip(names, values, strict=True):
        _require_samples(value, quantized=prepared.graph.node(name).quantizer is not None)
    return tuple(value.to(device) for value in values)


def _require_samples(value: Tensor, *, quantized: bool) -> None:
    """Refuse tensors without samples, and integers for an input that gets quantized."""
    if not value.numel():
        raise UserError(f"a batch of shape {list(value.shape)} holds no samples; give at least one, batch first")
    if quantized and not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise UserError(f"a batch holds {kind} values; give floats, normalised as the network takes them")


def _in_words(batch: Any) -> str:
    """What a batch is that is no tensor."""
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(type(value).__name__ for value in batch) or 'nothing'}"
    return f"of the class {type(batch).__name__}"


def each_batch(data: Any) -> Iterator[Any]:
    """Go over a user's batches; a single tensor is one.

    Raises:
        UserError: nothing that one can go over.
    """
    if isinstance(data, Tensor):
        return iter((data,))
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise UserError(
            f"data are of the class {type(data).__name__}; give a batch, a list or loader of batches, or what "
            "load_dataset returns"
        )
    return iter(data)


def evenly_spaced(count: int, length: int) -> Tensor:
    """Choose ``count`` of ``length`` images (all where there are fewer), as indices int64.

    Evenly spaced, because many data sets are sorted by class.
    """
    count = min(count, length)
    return torch.arange(count) * length // count

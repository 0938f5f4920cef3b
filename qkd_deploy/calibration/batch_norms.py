"""Running statistics of batch norms, estimated anew for weights that no longer change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from qkd_deploy.errors import UserError
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepare import PreparedModel


@torch.no_grad()
def reestimate_batch_norms(prepared: PreparedModel, batches: Iterable[Any]) -> int:
    """Replace the running statistics of every batch norm by the average over ``batches``, with quantizers on.

    The moving average that training keeps lags behind the weights and steps; ``freeze`` folds it into constants. Every
    batch counts the same, so they should be of one size, about that of training. Dropout modules stay off. Nothing
    happens, and no batch is taken, where there is no batch norm.

    Args:
        prepared: its batch norms are changed; its mode is kept.
        batches: tensors, or tuples that begin with the network's inputs, such as (images, labels); normalised.

    Returns:
        how many batch norms were estimated.

    Raises:
        UserError: there are no batches, or they hold raw pixels.
    """
    norms = [
        module
        for module in prepared.network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return 0
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise UserError("there is nothing to estimate batch norms with; give at least one batch")
    with _averaging(prepared, norms):
        for batch in chain((first,), rest):
            prepared(*network_inputs(prepared, batch))
    return len(norms)


@contextmanager
def _averaging(prepared: PreparedModel, norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms average cumulatively from zero, in train mode; everything below ``prepared`` else is in eval mode."""
    momenta = {norm: norm.momentum for norm in norms}
    with evaluating(prepared):
        prepared.training = True
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # torch's sign for the cumulative average
        try:
            yield
        finally:
            for norm, momentum in momenta.items():
                norm.momentum = momentum


def network_inputs(prepared: PreparedModel, batch: Any) -> tuple[Any, ...]:
    """What the network is called with, on its device: ``batch`` if it is a tensor, else the first items of it.

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

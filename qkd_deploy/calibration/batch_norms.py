"""Estimate the running statistics of batch norms anew, for weights that no longer change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from qkd_deploy.calibration.inputs import network_inputs
from qkd_deploy.errors import UserError
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel


@torch.no_grad()
def reestimate_batch_norms(prepared: PreparedModel, batches: Iterable[Any]) -> int:
    """Replace the running statistics of every batch norm by the average over ``batches``, with quantizers on.

    The moving average that training keeps lags behind weights and scales; ``freeze`` folds it into constants. Every
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
    norms = _norms(prepared)
    if not norms:
        return 0
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise UserError(
            "there is nothing to estimate batch norms with; give a list or a loader, which gives its batches every time"
        )
    with _averaging(prepared, norms):
        for batch in chain((first,), rest):
            prepared(*network_inputs(prepared, batch))
    return len(norms)


@contextmanager
def estimating_fresh(prepared: PreparedModel, samples: int) -> Iterator[None]:
    """Let batch norms that never saw a batch take the statistics of those that run within the block.

    A network with random weights is far from normalised by the statistics that batch norms begin with (mean 0, variance
    1): scales that fit it would clip nearly all that training sees. Trained batch norms are not touched.

    Args:
        prepared: the network.
        samples: in the batch; a single one has no variance, and then nothing is done.
    """
    fresh = [norm for norm in _norms(prepared) if _is_fresh(norm)] if samples > 1 else []
    if not fresh:
        yield
        return
    with _averaging(prepared, fresh):
        yield


def _is_fresh(norm: _BatchNorm) -> bool:
    """True where the statistics are those that a batch norm begins with; counts are often lost in conversions."""
    assert norm.running_mean is not None and norm.running_var is not None
    return not bool(norm.running_mean.any()) and bool((norm.running_var == 1).all())


def _norms(prepared: PreparedModel) -> list[_BatchNorm]:
    modules = prepared.network.modules()
    return [module for module in modules if isinstance(module, _BatchNorm) and module.running_mean is not None]


@contextmanager
def _averaging(prepared: PreparedModel, norms: list[_BatchNorm]) -> Iterator[None]:
    """Put ``norms`` into train mode, averaging cumulatively from zero, and all other modules into eval mode.

    ``prepared`` itself says that it trains: so its graph runs batch norms on the statistics of the batch, instead of
    folding them into the weights. Modes and momenta are restored.
    """
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

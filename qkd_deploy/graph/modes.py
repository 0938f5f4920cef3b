"""Evaluation mode for a while, with every module's own mode given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*networks: nn.Module | None) -> Iterator[None]:
    """Put networks in evaluation mode; afterwards every submodule has its own mode again, also where something raised.

    A batch norm that a user froze (``norm.eval()`` in a network that trains) is frozen afterwards, too.

    Args:
        networks: whole networks; None is skipped.
    """
    given = [network for network in networks if network is not None]
    modes = [(network, {part: part.training for part in network.modules()}) for network in given]
    try:
        for network in given:
            network.eval()
        yield
    finally:
        for network, own in modes:
            network.train(own[network])  # a train() of the user's own may take back more than a flag
            for part, training in own.items():
                part.training = training

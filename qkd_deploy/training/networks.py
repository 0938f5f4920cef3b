"""The networks and the device that a run starts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.data import ImageDataset, normalize
from qkd_deploy.errors import UserError
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.models import create_model


def resolve_device(name: str) -> torch.device:
    """``"auto"`` is an accelerator if there is one, else the CPU; other names are torch's.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"the device {name!r} is not available here; use --device auto or cpu") from error
    return device


def start_network(
    name: str,
    weights: Path | str | None,
    dataset: ImageDataset,
    *,
    args: Mapping[str, Any] | None = None,
    skip: Sequence[str] | None = None,
    report: Callable[[str], None] | None = None,
    classifier: bool = True,
) -> nn.Module:
    """A full-precision network for ``dataset``, on its device, in the mode in which its factory made it.

    Args:
        name: as for ``create_model``.
        weights: file to start from; None leaves the random weights, drawn from torch's global generator.
        dataset: decides classes, channels and image size.
        args: keyword arguments of the factory, as for ``create_model``.
        skip: entries or modules that stay at random, as for ``load_into``.
        report: receives a line about the weights that were loaded.
        classifier: whether it has to return logits, as for training; data sets with a metric take any outputs.

    Raises:
        UserError: the network cannot be built, does not fit the weights, or does not map images to logits.
    """
    network = create_model(name, len(dataset.classes), dataset.in_channels, args)
    if weights is not None:
        account = load_into(network, read_weights(weights), name, weights, skip=skip)
        if report is not None:
            report(f"{name}: {account}")
    network.to(dataset.train.device)
    _require_logits(network, name, dataset, classifier)
    return network


@torch.no_grad()
def _require_logits(network: nn.Module, name: str, dataset: ImageDataset, classifier: bool) -> None:
    images = normalize(dataset.train.images_at(torch.arange(2)))
    try:
        with evaluating(network):
            logits = network(images)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot process images of shape {list(images.shape[1:])}: {reason}") from error
    expected = [len(images), len(dataset.classes)]
    if classifier and (not isinstance(logits, Tensor) or list(logits.shape) != expected):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"{name} returns {got} for two images; training needs logits of shape {expected}")

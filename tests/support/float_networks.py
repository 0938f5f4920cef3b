"""Networks in full precision that checkpoints hold."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.models import create_model


def float_network(path: Path) -> nn.Module:
    """The network of a checkpoint such as ``teacher.pt``, in evaluation mode."""
    record = load_checkpoint(path).model
    network = create_model(record.name, record.num_classes, record.in_channels, record.args)
    load_into(network, read_weights(path), record.name, path)
    return network.eval()

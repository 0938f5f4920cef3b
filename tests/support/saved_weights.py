"""Weights of a small network, as they are saved, and the proof that a file has them."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

from qkd_deploy.checkpoints.weights import read_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))


WEIGHTS = network().state_dict()


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer)
    return buffer.getvalue()


def gives_weights(path: Path | str) -> None:
    """Read a file, and find the network's weights."""
    found = read_weights(path)
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], value) for name, value in WEIGHTS.items())

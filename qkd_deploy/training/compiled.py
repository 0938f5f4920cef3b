"""``torch.compile`` as training uses it."""

from __future__ import annotations

import torch
from torch import nn


def compile_network(network: nn.Module) -> nn.Module:
    """The network through ``torch.compile``."""
    return torch.compile(network, dynamic=False)  # type: ignore[return-value]

"""A small network whose quantizers are looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.graph.prepared import PreparedModel


class Noise(nn.Module):
    """Draws from torch's random state even in evaluation mode, once it is ``active``: tracing would refuse that."""

    active = False

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x) if self.active else x + 0.0


class Network(nn.Module):
    """A residual block whose second convolution is called twice, and a float module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.noise = Noise()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.shared(self.shared(x))) + x
        return self.fc(self.noise(x.mean((2, 3))))


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def prepared(bits: str = "w3a4", **options: Any) -> PreparedModel:
    torch.manual_seed(0)
    model = prepare(Network(), bits, (images(1),), leaf_modules=(Noise,), **options)
    model.network.noise.active = True
    initialize(model, images())
    return model.train()

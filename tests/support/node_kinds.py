"""Small networks with one kind of operation each, for tests of what runtimes make of every kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Small(nn.Module):
    """Convolutions, something behind them, and a linear layer."""

    def __init__(self, behind: Callable[[Small, Tensor], Tensor], ends: bool) -> None:
        super().__init__()
        self.behind, self.ends = behind, ends
        self.stem, self.down = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.grouped = nn.Conv2d(16, 16, 3, 1, 1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.dilated = nn.Conv2d(16, 16, 3, 1, 2, dilation=2)
        self.pointwise, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        made = self.behind(self, F.relu(self.down(F.relu(self.stem(x)))))
        return self.head(self.pointwise(made).mean((2, 3))) if self.ends else made


def _gated(net: Small, y: Tensor) -> Tensor:
    return y * torch.sigmoid(net.pointwise(y.mean((2, 3), keepdim=True)))


def _shuffled(net: Small, y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)


INTEGER: dict[str, Callable[[Small, Tensor], Tensor]] = {
    "grouped": lambda net, y: F.relu(net.grouped(y)),
    "depthwise": lambda net, y: F.relu6(net.depthwise(F.relu6(net.grouped(y)))),
    "dilated": lambda net, y: net.dilated(y),
    "max pool": lambda net, y: F.max_pool2d(y, 3, 2, 1),
    "average pool": lambda net, y: F.avg_pool2d(y, 3, 2, 1),
    "concat": lambda net, y: torch.cat([y[:, :8], net.pointwise(y)[:, 4:12]], 1),
    "gate": _gated,
    "hard swish": lambda net, y: F.hardswish(net.pointwise(y)),
    "tanh": lambda net, y: torch.tanh(net.pointwise(y)),
    "nearest": lambda net, y: F.interpolate(y, scale_factor=2.0),
    "bilinear": lambda net, y: F.interpolate(y, scale_factor=2.0, mode="bilinear"),
    "zeros": lambda net, y: F.pad(y, (1, 2, 0, 1)),
    "reflection": lambda net, y: F.pad(net.grouped(y), (1, 2, 2, 1), mode="reflect"),
    "replication": lambda net, y: F.pad(y, (1, 2, 2, 1), mode="replicate"),
    "slice": lambda net, y: y[:, :, 1:, 2:],
    "shuffle": _shuffled,
    "roll": lambda net, y: torch.roll(y, (1, -2), (2, 3)),
    "clip": lambda net, y: F.hardtanh(net.pointwise(y), -0.7, 0.9),
}
"""All of whose kernels are integer in XNNPACK, but for the last linear layer."""
MIXED: dict[str, Callable[[Small, Tensor], Tensor]] = {
    "sum": lambda net, y: F.relu(y + net.pointwise(y)),
    "constants": lambda net, y: net.pointwise(y) * 0.3 - 0.5,
    "uneven average pool": lambda net, y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
    "leaky": lambda net, y: F.leaky_relu(net.pointwise(y), 0.1),
    "gelu": lambda net, y: F.gelu(net.pointwise(y)),
    "signed max pool": lambda net, y: F.max_pool2d(net.grouped(y), 3, 2, 1),
    "every other": lambda net, y: y[:, :, ::2, 1::2],
    "flip": lambda net, y: torch.flip(y, (3,)),
}
"""Some of whose kernels there compute exactly in float32, or move bytes outside XNNPACK."""
MAPS: dict[str, Callable[[Small, Tensor], Tensor]] = {
    "map": lambda net, y: net.pointwise(y),
    "pixel shuffle": lambda net, y: F.pixel_shuffle(net.pointwise(y), 2),
    "largest": lambda net, y: net.head(net.pointwise(y).amax((2, 3))),
    "rows": lambda net, y: net.head(F.relu(net.pointwise(y)).flatten(2).transpose(1, 2)),
}


class Rows(nn.Module):
    """Convolutions of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 8, 5, 2, 2), nn.Conv1d(8, 8, 3, 1, 1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool1d(F.relu(self.first(x)), 2)
        return self.head(F.avg_pool1d(F.relu(self.second(y)), 2).mean(2))


class Tokens(nn.Module):
    """Linear layers on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.wide, self.narrow, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = y + self.narrow(F.relu(self.wide(y)))
        return self.head(y.mean(1))


class Attention(nn.Module):
    """Attention with a mask, a softmax of its own, and a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.query, self.key, self.value, self.head = (nn.Linear(16, size) for size in (16, 16, 16, 5))
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter, 0.8, 0.3)
        self.bias = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        y = F.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y), self.bias)
        return self.head(torch.softmax(self.value(y), -1).mean(1))

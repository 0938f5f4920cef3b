"""A network of what the built-in ones do not contain: one operator after the other, for the table of exactness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "gallery"
_WIDTH, _PIXELS = 16, 8

_STEPS: tuple[Callable[[Any, Tensor], Tensor], ...] = (
    lambda n, x: x + n.queries(n.token.expand(x.shape[0], -1, -1, -1)),
    lambda n, x: torch.cat([x[:, :4], n.token.expand(x.shape[0], -1, -1, -1), x[:, 5:]], 1),
    lambda n, x: x * torch.sigmoid(x.amax(1, keepdim=True) - x.mean(1, keepdim=True)),
    lambda n, x: x * torch.sigmoid(x.sum((2, 3), keepdim=True) * 0.02),
    lambda n, x: F.glu(torch.cat([x, x.flip(3)], 1), 1),
    lambda n, x: x[:, n.order] + x.roll((1, 2), (2, 3)),
    lambda n, x: torch.cat([x[:, ::2], x[:, 1::2].repeat_interleave(2, 1)[:, :8]], 1),
    lambda n, x: x * (x.softmax(1) * 8),
    lambda n, x: x + torch.einsum("bchw,bcvw->bchv", x, x) * 0.05,
    lambda n, x: x + F.scaled_dot_product_attention(x, x, x),
    lambda n, x: F.pixel_shuffle(F.gelu(n.mixed(F.pixel_unshuffle(x, 2))), 2),
    lambda n, x: n.rows(x) + x.mean((2, 3), keepdim=True).expand(-1, -1, _PIXELS, _PIXELS),
    lambda n, x: F.hardswish(n.norm(torch.tanh(x)) + F.elu(x - 0.5)),
    lambda n, x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1) - F.max_pool2d(x, 3, 1, 1) * 0.3,
    lambda n, x: n.slopes(x - 0.2),
)


class Gallery(nn.Module):
    """Patches of the image, the steps above, and a classifier of the mean."""

    order: Tensor

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, image_size // _PIXELS, image_size // _PIXELS)
        self.token = nn.Parameter(torch.randn(1, 1, _PIXELS, _PIXELS))
        self.queries, self.rows = nn.Linear(_PIXELS, _PIXELS), nn.LayerNorm(_PIXELS)
        self.mixed, self.norm = nn.Conv2d(4 * _WIDTH, 4 * _WIDTH, 1, groups=4), nn.BatchNorm2d(_WIDTH)
        self.slopes, self.features = nn.PReLU(_WIDTH), nn.BatchNorm1d(_WIDTH)
        self.head = nn.Linear(_WIDTH, num_classes)
        self.register_buffer("order", torch.randperm(_WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.patches(x)
        for step in _STEPS:
            x = step(self, x)
        logits: Tensor = self.head(self.features(x.mean((2, 3))))
        return logits

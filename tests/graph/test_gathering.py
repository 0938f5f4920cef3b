"""Elements at places that the network computes, holds, or is given: every way to write it answers for every image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deployment import noise
from torch import nn
from whole_way import go_all_the_way

IMAGES = noise(5, 3, 8, 8)


class Gathering(nn.Module):
    """A heat map over 16 places, with offsets."""

    def __init__(self, gather: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.stem, self.head, self.gather = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1), gather
        self.register_buffer("places", torch.arange(12).view(1, 4, 3))
        self.register_buffer("columns", torch.tensor([[[3, 0, 5, 5]]]))

    def forward(self, x: torch.Tensor) -> Any:
        return self.gather(self, self.head(torch.relu(self.stem(x))).flatten(2))


GATHERS: dict[str, Callable[[Any, Any], Any]] = {
    "offsets at the peak": lambda n, y: y[:, 1:].gather(2, y[:, :1].argmax(2, keepdim=True).repeat(1, 3, 1)),
    "largest by size": lambda n, y: y.gather(2, y.abs().argmax(2, keepdim=True)),
    "take_along_dim of a buffer": lambda n, y: torch.take_along_dim(y, n.places, 2),
    "one row of a buffer for all channels": lambda n, y: y.take_along_dim(n.columns, dim=-1),
    "take_along_dim at the peak": lambda n, y: torch.take_along_dim(y, y.argmax(2, keepdim=True), 2),
    "a buffer for all images": lambda n, y: y.gather(2, n.places.expand(y.shape[0], -1, -1)),
}


@pytest.mark.parametrize("name", GATHERS)
def test_every_image_gets_its_answer(name: str, tmp_path: Path) -> None:
    go_all_the_way(Gathering(GATHERS[name]), (IMAGES,), tmp_path)

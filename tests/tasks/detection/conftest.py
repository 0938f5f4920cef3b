from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Maps = tuple[Tensor, ...]


@pytest.fixture
def random_maps() -> Callable[..., Maps]:
    """Raw answers of a detector with levels of strides 8, 16 and 32 for square images."""

    def make(images: int = 2, classes: int = 3, bins: int = 6, pixels: int = 64, seed: int = 0) -> Maps:
        generator = torch.Generator().manual_seed(seed)
        maps: list[Tensor] = []
        for stride in (8, 16, 32):
            side = pixels // stride
            maps += [torch.randn(images, count, side, side, generator=generator) for count in (classes, 4 * bins)]
        return tuple(maps)

    return make


@pytest.fixture
def perfect_maps() -> Callable[..., Maps]:
    """Raw answers whose places of one level inside of a box give exactly that box, surely, and all others nothing."""

    def make(targets: Tensor, level: int = 0, classes: int = 3, bins: int = 9, pixels: int = 64) -> Maps:
        maps: list[Tensor] = []
        for index, stride in enumerate((8, 16, 32)):
            side = pixels // stride
            scores = torch.full((len(targets), classes, side, side), -20.0)
            boxes = torch.zeros(len(targets), 4, bins, side, side)
            if index == level:
                for image, rows in enumerate(targets):
                    for number, x1, y1, x2, y2, crowd in rows.tolist():
                        if number >= 0 and not crowd:
                            _write(scores[image, int(number)], boxes[image], (x1, y1, x2, y2), stride)
            maps += [scores, boxes.flatten(1, 2)]
        return tuple(maps)

    return make


def _write(scores: Tensor, boxes: Tensor, corners: tuple[float, ...], stride: int) -> None:
    x1, y1, x2, y2 = corners
    for row in range(scores.shape[0]):
        for column in range(scores.shape[1]):
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            if x1 < x < x2 and y1 < y < y2:
                scores[row, column] = 20.0
                for side, distance in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                    boxes[side, :, row, column] = sides(distance / stride, boxes.shape[1])


def sides(distance: float, bins: int) -> Tensor:
    """Logits of a distribution on the two bins around a distance, whose mean it is."""
    low = min(int(distance), bins - 2)
    probabilities = torch.full((bins,), 1e-13, dtype=torch.float64)
    probabilities[low] += 1 - (distance - low)
    probabilities[low + 1] += distance - low
    return probabilities.log().float()

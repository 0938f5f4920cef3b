from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy.data import Split
from qkd_deploy.training.loop.evaluate import evaluate


class FirstPixel(nn.Module):
    """Says 1 where the first pixel is bright; in training mode always 0."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 0, 0] > 0
        one = torch.where(bright, 1.0, -1.0) if not self.training else -torch.ones(len(x))
        return torch.stack([torch.zeros(len(x)), one], dim=1)


def split() -> Split:
    images = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    images[:6] = 255
    return Split(images, torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 1]))


@pytest.mark.parametrize("batch_size", [1, 3, 10, 100])
def test_accuracy_counts_every_image_once_in_evaluation_mode(batch_size: int) -> None:
    network = FirstPixel().train()
    assert evaluate(network, split(), batch_size=batch_size) == 70.0
    assert network.training


@pytest.mark.parametrize(("limit", "accuracy"), [(4, 100.0), (5, 80.0), (50, 70.0)])
def test_a_limit_takes_the_first_images(limit: int, accuracy: float) -> None:
    assert evaluate(FirstPixel(), split(), limit=limit) == accuracy

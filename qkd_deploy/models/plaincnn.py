"""A small network without shortcuts."""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.models.initialize import kaiming_normal


class PlainCnn(nn.Module):
    """Three 3x3 convolutions (32, 64, 128 channels) with batch norm and ReLU, max pooling after the first two.

    Works from 4x4 pixels on: float [N, in_channels, H, W] -> logits [N, num_classes].
    """

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_unit(in_channels, 32), nn.MaxPool2d(2), *_unit(32, 64), nn.MaxPool2d(2), *_unit(64, 128)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, num_classes)
        kaiming_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits [N, num_classes] of float images [N, in_channels, H, W]."""
        return self.fc(torch.flatten(self.avgpool(self.features(x)), 1))  # type: ignore[no-any-return]


def _unit(in_width: int, width: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)

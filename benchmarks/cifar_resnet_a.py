"""ResNets for CIFAR-10 with the paper's parameter-free shortcut ("option A"), for ``--model``.

    qkd-deploy export --model benchmarks.cifar_resnet_a:resnet20 ...

The names are those of the weights that akamaster/pytorch_resnet_cifar10 publishes, which expect
``(pixel / 255 - mean) / std`` with the mean and the deviation of ImageNet.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ResNet(nn.Module):
    """He et al. 2016, section 4.2: float [N, 3, 32, 32] -> logits [N, num_classes]; ``blocks`` in each of 3 stages."""

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16)
        self.layer2 = _stage(blocks, 16, 32)
        self.layer3 = _stage(blocks, 32, 64)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits of normalised images."""
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two 3x3 convolutions; where the width grows, the shortcut takes every other pixel and adds zero channels."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        stride = 1 if in_width == width else 2
        self.conv1, self.bn1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self._new = (width - in_width) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to float [N, in_width, H, W]."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self._new, self._new)) if self._new else x
        return F.relu(y + shortcut)


def _stage(blocks: int, in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(in_width if index == 0 else width, width) for index in range(blocks)))


def resnet20(num_classes: int = 10) -> nn.Module:
    """ResNet-20."""
    return ResNet(3, num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """ResNet-56."""
    return ResNet(9, num_classes)

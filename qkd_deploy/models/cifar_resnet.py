"""ResNets for small images (He et al., 2016, section 4.2)."""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.models.blocks import BasicBlock, stage
from qkd_deploy.models.initialize import kaiming_normal


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of 16, 32 and 64 channels, global average pooling and one linear layer.

    Works from 4x4 pixels on: float [N, in_channels, H, W] -> logits [N, num_classes]. Unlike the paper's parameter-free
    shortcut (stride, then zero channels), shape changes are 1x1 convolutions with batch norm, which become
    integer convolutions; that adds 2,752 parameters.

    Args:
        blocks: basic blocks in each stage; the network has 6 * blocks + 2 weighted layers.
    """

    def __init__(self, blocks: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(BasicBlock, 16, 16, blocks, stride=1)
        self.layer2 = stage(BasicBlock, 16, 32, blocks, stride=2)
        self.layer3 = stage(BasicBlock, 32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        kaiming_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits [N, num_classes] of float images [N, in_channels, H, W]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]

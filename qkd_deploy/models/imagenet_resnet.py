"""ResNets for large images (He et al., 2016, section 4.1)."""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.models.blocks import Block, stage
from qkd_deploy.models.initialize import kaiming_normal


class ImageNetResNet(nn.Module):
    """A 7x7 stem with max pooling, four stages, global average pooling and one linear layer.

    Float [N, in_channels, H, W] (224x224 as published) -> logits [N, num_classes]. Parameters and buffers have the
    names and shapes of torchvision's resnet18, 34 and 50, so that their published weights load.

    Args:
        block: BasicBlock or Bottleneck.
        counts: blocks in each of the four stages.
        num_classes: length of the logits.
        in_channels: channels of the images.
        width: channels of the stem and the first stage; each later stage has twice as many as the one before.
    """

    def __init__(
        self,
        block: Block,
        counts: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        wide = width * block.expansion
        self.layer1 = stage(block, width, width, counts[0], stride=1)
        self.layer2 = stage(block, wide, 2 * width, counts[1], stride=2)
        self.layer3 = stage(block, 2 * wide, 4 * width, counts[2], stride=2)
        self.layer4 = stage(block, 4 * wide, 8 * width, counts[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * wide, num_classes)
        kaiming_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits [N, num_classes] of float images [N, in_channels, H, W]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]

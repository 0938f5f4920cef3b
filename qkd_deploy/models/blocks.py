"""Residual blocks (He et al., 2016), with the parameter names that public weights use."""

from __future__ import annotations

import torch
from torch import nn

Block = type["BasicBlock"] | type["Bottleneck"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; [N, in_width, H, W] -> [N, width, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_width, width, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to float [N, in_width, H, W]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu2(out + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, "v1.5"), 1x1 convolutions around a shortcut; the output has 4 * width channels."""

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(in_width, width * self.expansion, stride)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to float [N, in_width, H, W]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu3(out + shortcut)  # type: ignore[no-any-return]


def stage(block: Block, in_width: int, width: int, count: int, stride: int) -> nn.Sequential:
    """Chain ``count`` blocks of ``width``; the first one changes the channels and carries the stride."""
    out_width = width * block.expansion
    first = block(in_width, width, stride)
    return nn.Sequential(first, *(block(out_width, width, 1) for _ in range(count - 1)))


def _shortcut(in_width: int, out_width: int, stride: int) -> nn.Sequential | None:
    """Make a projection where the shape changes, else None: the identity."""
    if stride == 1 and in_width == out_width:
        return None
    return nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width))

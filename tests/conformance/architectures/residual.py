"""Residual networks: ResNet, ResNeXt, wide and pre-activation forms, RegNet, RepVGG."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, SqueezeExcite, conv_bn


class Basic(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(in_width, width, 3, stride), conv_bn(width, width, activation=None)
        self.shortcut = conv_bn(in_width, width, 1, stride, activation=None) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """``groups`` makes it a block of ResNeXt or RegNet-X, ``excite`` one of RegNet-Y."""

    def __init__(
        self, in_width: int, width: int, out_width: int, stride: int = 1, groups: int = 1, excite: int = 0
    ) -> None:
        super().__init__()
        self.a, self.b = conv_bn(in_width, width, 1), conv_bn(width, width, 3, stride, groups)
        self.se = SqueezeExcite(width, excite) if excite else nn.Identity()
        self.c = conv_bn(width, out_width, 1, activation=None)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_width != out_width:
            self.downsample = conv_bn(in_width, out_width, 1, stride, activation=None)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.c(self.se(self.b(self.a(x))))
        out += identity
        return self.relu(out)  # type: ignore[no-any-return]


class PreActivation(nn.Module):
    """Batch norm and ReLU before the convolutions; the first pair is shared with the projection."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_width), nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.project = nn.Conv2d(in_width, width, 1, stride, bias=False) if stride > 1 or in_width != width else None

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(x))
        shortcut = x if self.project is None else self.project(out)
        return self.conv2(torch.relu(self.bn2(self.conv1(out)))) + shortcut  # type: ignore[no-any-return]


class RepVggBlock(nn.Module):
    """The training form: a 3x3, a 1x1 and an identity branch, each with a batch norm of its own."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.dense, self.point = (conv_bn(in_width, width, k, stride, activation=None) for k in (3, 1))
        self.identity = nn.BatchNorm2d(width) if stride == 1 and in_width == width else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.dense(x) + self.point(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return F.relu(out)


def resnet() -> nn.Module:
    stem = nn.Sequential(*conv_bn(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
    return Classifier(nn.Sequential(stem, Basic(16, 16, 1), Basic(16, 32, 2)), 32)


def resnet_bottleneck() -> nn.Module:
    blocks = Bottleneck(16, 8, 32), Bottleneck(32, 8, 32), Bottleneck(32, 16, 64, 2)
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *blocks), 64)


def resnext() -> nn.Module:
    blocks = Bottleneck(16, 16, 32, groups=4), Bottleneck(32, 32, 64, 2, groups=8)
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *blocks), 64)


def wide_resnet() -> nn.Module:
    blocks = PreActivation(16, 48, 1), PreActivation(48, 48, 1), PreActivation(48, 64, 2)
    tail = nn.BatchNorm2d(64), nn.ReLU()
    return Classifier(nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), *blocks, *tail), 64)


def preactivation_resnet() -> nn.Module:
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.AvgPool2d(2)
    blocks = PreActivation(16, 16, 1), PreActivation(16, 32, 2), PreActivation(32, 32, 1)
    return Classifier(nn.Sequential(*stem, *blocks, nn.BatchNorm2d(32), nn.ReLU(inplace=True)), 32)


def regnet_x() -> nn.Module:
    blocks = Bottleneck(16, 24, 24, 2, groups=3), Bottleneck(24, 24, 24, groups=3), Bottleneck(24, 40, 40, 2, groups=5)
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *blocks), 40)


def regnet_y() -> nn.Module:
    blocks = Bottleneck(16, 24, 24, 2, 3, excite=4), Bottleneck(24, 40, 40, 2, 5, excite=6)
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *blocks), 40)


def repvgg() -> nn.Module:
    blocks = RepVggBlock(3, 16, 2), RepVggBlock(16, 16, 1), RepVggBlock(16, 32, 2), RepVggBlock(32, 32, 1)
    return Classifier(nn.Sequential(*blocks), 32)

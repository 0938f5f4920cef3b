"""Networks of branches and concatenations: DenseNet, Inception, GhostNet, ShuffleNetV2, a YOLO-like backbone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, SqueezeExcite, conv_bn


class DenseLayer(nn.Module):
    def __init__(self, in_width: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(in_width), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_width, 2 * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(2 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(x))))))
        return torch.cat([x, new], 1)


def densenet() -> nn.Module:
    transition = nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.Conv2d(32, 16, 1, bias=False), nn.AvgPool2d(2, 2)
    first = DenseLayer(16, 8), DenseLayer(24, 8)
    second = DenseLayer(16, 8), DenseLayer(24, 8), nn.BatchNorm2d(32), nn.ReLU(inplace=True)
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *first, *transition, *second), 32)


class Inception(nn.Module):
    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.branch1 = conv_bn(in_width, 8, 1)
        self.branch2 = nn.Sequential(conv_bn(in_width, 8, 1), conv_bn(8, 12, 3))
        self.branch3 = nn.Sequential(conv_bn(in_width, 6, 1), self._wide(6, 8))
        self.branch_pool = conv_bn(in_width, 8, 1)

    @staticmethod
    def _wide(in_width: int, width: int) -> nn.Sequential:
        """A 1x5 and a 5x1 convolution."""
        row = nn.Conv2d(in_width, width, (1, 5), padding=(0, 2), bias=False)
        column = nn.Conv2d(width, width, (5, 1), padding=(2, 0), bias=False)
        return nn.Sequential(row, nn.BatchNorm2d(width), nn.ReLU(), column, nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), pooled], 1)


def inception() -> nn.Module:
    blocks = Inception(16), nn.MaxPool2d(3, 2, 1), Inception(36)
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *blocks, nn.Dropout(0.2)), 36)


class Ghost(nn.Module):
    """Half of the channels by a convolution, the other half by a cheap depthwise one from the first."""

    def __init__(self, in_width: int, width: int, activation: bool = True) -> None:
        super().__init__()
        self.width, primary = width, math.ceil(width / 2)
        kind = nn.ReLU if activation else None
        self.primary = conv_bn(in_width, primary, 1, activation=kind)
        self.cheap = conv_bn(primary, primary, 3, groups=primary, activation=kind)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], dim=1)[:, : self.width, :, :]


class GhostBottleneck(nn.Module):
    def __init__(self, in_width: int, hidden: int, width: int, stride: int, excite: bool) -> None:
        super().__init__()
        self.ghost1, self.ghost2 = Ghost(in_width, hidden), Ghost(hidden, width, activation=False)
        self.down = conv_bn(hidden, hidden, 3, stride, hidden, activation=None) if stride > 1 else nn.Identity()
        self.se = SqueezeExcite(hidden, 8, gate=nn.Hardsigmoid) if excite else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_width != width:
            deep = conv_bn(in_width, in_width, 3, stride, in_width, activation=None)
            self.shortcut = nn.Sequential(deep, conv_bn(in_width, width, 1, activation=None))

    def forward(self, x: Tensor) -> Tensor:
        return self.ghost2(self.se(self.down(self.ghost1(x)))) + self.shortcut(x)  # type: ignore[no-any-return]


def ghostnet() -> nn.Module:
    blocks = GhostBottleneck(16, 16, 16, 1, False), GhostBottleneck(16, 33, 24, 2, True)
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *blocks, conv_bn(24, 48, 1)), 48)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, width // 2
        source = in_width if stride > 1 else half
        if stride > 1:
            deep = conv_bn(in_width, in_width, 3, stride, in_width, activation=None)
            self.branch1 = nn.Sequential(deep, conv_bn(in_width, half, 1))
        deep = conv_bn(half, half, 3, stride, half, activation=None)
        self.branch2 = nn.Sequential(conv_bn(source, half, 1), deep, conv_bn(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            left, right = x.chunk(2, dim=1)
            out = torch.cat((left, self.branch2(right)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


def shufflenet_v2() -> nn.Module:
    units = ShuffleUnit(16, 32, 2), ShuffleUnit(32, 32, 1), ShuffleUnit(32, 48, 2), ShuffleUnit(48, 48, 1)
    return Classifier(nn.Sequential(conv_bn(3, 16), *units, conv_bn(48, 48, 1)), 48)


class Csp(nn.Module):
    """A cross-stage block of YOLO: half of the channels pass bottlenecks, everything is concatenated."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.cv1, self.cv2 = (conv_bn(in_width, half, 1, activation=nn.SiLU) for _ in range(2))
        self.m = nn.Sequential(conv_bn(half, half, 1, activation=nn.SiLU), conv_bn(half, half, 3, activation=nn.SiLU))
        self.cv3 = conv_bn(2 * half, width, 1, activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        first = self.cv1(x)
        return self.cv3(torch.cat((first + self.m(first), self.cv2(x)), 1))  # type: ignore[no-any-return]


class Sppf(nn.Module):
    """Pyramid pooling: three max-pools in a row, all concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = (conv_bn(a, b, 1, activation=nn.SiLU) for a, b in ((width, 12), (48, width)))
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.cv1(x)
        second = self.pool(first)
        third = self.pool(second)
        return self.cv2(torch.cat([first, second, third, self.pool(third)], 1))  # type: ignore[no-any-return]


def yolo_backbone() -> nn.Module:
    stem = conv_bn(3, 16, 3, 2, activation=nn.SiLU)
    down = conv_bn(16, 24, 3, 2, activation=nn.SiLU)
    return Classifier(nn.Sequential(stem, down, Csp(24, 24), Sppf(24)), 24)

"""Networks of depthwise convolutions: MobileNet V1 to V3, MnasNet, EfficientNet and its lite form, Xception."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Activation, Classifier, SqueezeExcite, conv_bn


class Inverted(nn.Module):
    """Expansion, depthwise convolution, squeeze-excite if wanted, linear projection."""

    def __init__(
        self,
        in_width: int,
        hidden: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        activation: Activation = nn.ReLU6,
        excite: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        layers = [conv_bn(in_width, hidden, 1, activation=activation)] if hidden != in_width else []
        layers.append(conv_bn(hidden, hidden, kernel, stride, hidden, activation))
        if excite is not None:
            layers.append(excite(hidden))  # type: ignore[arg-type]
        layers.append(conv_bn(hidden, width, 1, activation=None))
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)  # type: ignore[no-any-return]
        return self.conv(x)  # type: ignore[no-any-return]


def mobilenet_v1() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2)]
    for in_width, width, stride in ((16, 24, 1), (24, 32, 2), (32, 32, 1)):
        layers += [conv_bn(in_width, in_width, 3, stride, in_width), conv_bn(in_width, width, 1)]
    return Classifier(nn.Sequential(*layers), 32)


def mobilenet_v2() -> nn.Module:
    blocks = Inverted(16, 16, 8), Inverted(8, 48, 16, stride=2), Inverted(16, 96, 16), Inverted(16, 96, 24, stride=2)
    stem, last = conv_bn(3, 16, 3, 2, activation=nn.ReLU6), conv_bn(24, 64, 1, activation=nn.ReLU6)
    return Classifier(nn.Sequential(stem, *blocks, last, nn.Dropout(0.2)), 64)


class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def excite(width: int) -> nn.Module:
            return SqueezeExcite(width, 8, gate=nn.Hardsigmoid)

        self.stem = conv_bn(3, 16, 3, 2, activation=nn.Hardswish)
        self.blocks = nn.Sequential(
            Inverted(16, 16, 16, stride=2, activation=nn.ReLU, excite=excite),
            Inverted(16, 64, 24, 5, activation=nn.Hardswish, excite=excite),
            Inverted(24, 72, 24, activation=nn.Hardswish),
        )
        self.last, self.avgpool = conv_bn(24, 64, 1, activation=nn.Hardswish), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(64, 48), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.last(self.blocks(self.stem(x))))
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


def mnasnet() -> nn.Module:
    """Kernels of 5 and plain ReLU; the last block excites, as in MnasNet-A1."""

    def excite(width: int) -> nn.Module:
        return SqueezeExcite(width, 6)

    blocks = (
        Inverted(16, 48, 16, stride=2, activation=nn.ReLU),
        Inverted(16, 48, 24, 5, 2, nn.ReLU),
        Inverted(24, 72, 24, 5, 1, nn.ReLU, excite),
    )
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), *blocks, conv_bn(24, 64, 1)), 64)


def efficientnet() -> nn.Module:
    def excite(width: int) -> nn.Module:
        return SqueezeExcite(width, 4, nn.SiLU)

    blocks = (
        Inverted(16, 16, 8, activation=nn.SiLU, excite=excite),
        Inverted(8, 48, 16, 3, 2, nn.SiLU, excite),
        Inverted(16, 96, 16, 5, 1, nn.SiLU, excite),
    )
    stem, last = conv_bn(3, 16, 3, 2, activation=nn.SiLU), conv_bn(16, 64, 1, activation=nn.SiLU)
    return Classifier(nn.Sequential(stem, *blocks, last), 64)


def efficientnet_lite() -> nn.Module:
    blocks = Inverted(16, 16, 8), Inverted(8, 48, 16, 3, 2), Inverted(16, 96, 24, 5, 2), Inverted(24, 144, 24, 5)
    stem, last = conv_bn(3, 16, 3, 2, activation=nn.ReLU6), conv_bn(24, 64, 1, activation=nn.ReLU6)
    return Classifier(nn.Sequential(stem, *blocks, last), 64)


class SamePadded(nn.Module):
    """A stride-2 convolution with TensorFlow's padding: one more row below and to the right."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, 3, 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.bn(self.conv(F.pad(x, (0, 1, 0, 1)))))


def same_padded_mobilenet() -> nn.Module:
    blocks = Inverted(16, 48, 16), SamePadded(16, 24), Inverted(24, 72, 24)
    return Classifier(nn.Sequential(SamePadded(3, 16), *blocks), 24)


class Separable(nn.Module):
    """Xception's block: ReLU before separable convolutions, a projected shortcut around them."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.skip = conv_bn(in_width, width, 1, 2, activation=None)
        self.rep = nn.Sequential(
            nn.ReLU(), *self._separable(in_width, width), nn.ReLU(), *self._separable(width, width),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip

    @staticmethod
    def _separable(in_width: int, width: int) -> tuple[nn.Module, ...]:
        deep = nn.Conv2d(in_width, in_width, 3, padding=1, groups=in_width, bias=False)
        return deep, nn.Conv2d(in_width, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.rep(x) + self.skip(x)  # type: ignore[no-any-return]


def xception() -> nn.Module:
    return Classifier(nn.Sequential(conv_bn(3, 16, 3, 2), Separable(16, 32), Separable(32, 48), nn.ReLU()), 48)

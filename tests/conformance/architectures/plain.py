"""Networks without shortcuts: VGG, NiN, SqueezeNet, Darknet, a PReLU network, AlexNet, a 1-D network for keywords."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, conv_bn


class Vgg(nn.Module):
    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for item in (16, "M", 24, 24, "M", 32, "M"):
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            layers.append(nn.Conv2d(width, item, kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(item), nn.ReLU(inplace=True)] if batch_norm else [nn.ReLU(inplace=True)]
            width = item
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        head = nn.Linear(32 * 16, 48), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(48, 48), nn.ReLU(True), nn.Dropout(0.5)
        self.classifier = nn.Sequential(*head, nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


class NetworkInNetwork(nn.Module):
    """1x1 convolutions behind every large one; the last convolution gives one plane per class."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self._block(3, 24, 5), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(0.5),
            *self._block(24, 32, 3), nn.AvgPool2d(3, 2, padding=1),
            nn.Conv2d(32, 10, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)),
        )  # fmt: skip

    @staticmethod
    def _block(in_width: int, width: int, kernel: int) -> list[nn.Module]:
        convs = nn.Conv2d(in_width, width, kernel, padding=kernel // 2), nn.Conv2d(width, width, 1)
        return [module for conv in convs for module in (conv, nn.ReLU(inplace=True))]

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).view(x.size(0), 10)  # type: ignore[no-any-return]


class Fire(nn.Module):
    def __init__(self, in_width: int, squeezed: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_width, squeezed, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(squeezed, width, 1), nn.Conv2d(squeezed, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def squeezenet() -> nn.Module:
    stem = nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)
    fires = Fire(16, 8, 16), Fire(32, 8, 16), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(32, 12, 24)
    head = nn.Dropout(0.5), nn.Conv2d(48, 10, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*stem, *fires, *head, nn.Flatten())


class DarknetBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = conv_bn(width, width // 2, 1, activation=lambda: nn.LeakyReLU(0.1, inplace=True))
        self.expand = conv_bn(width // 2, width, 3, activation=lambda: nn.LeakyReLU(0.1, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))  # type: ignore[no-any-return]


def darknet() -> nn.Module:
    def unit(in_width: int, width: int, stride: int) -> nn.Module:
        return conv_bn(in_width, width, 3, stride, activation=lambda: nn.LeakyReLU(0.1, inplace=True))

    blocks = unit(3, 16, 1), unit(16, 24, 2), DarknetBlock(24), unit(24, 32, 2), DarknetBlock(32)
    return Classifier(nn.Sequential(*blocks), 32)


def prelu_network() -> nn.Module:
    def unit(in_width: int, width: int, stride: int) -> nn.Sequential:
        return conv_bn(in_width, width, 3, stride, activation=lambda: nn.PReLU(width))

    shared = conv_bn(32, 32, 1, activation=nn.PReLU)
    return Classifier(nn.Sequential(unit(3, 16, 2), unit(16, 32, 2), shared), 32)


def alexnet() -> nn.Module:
    features = (
        nn.Conv2d(3, 16, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    head = nn.Dropout(), nn.Linear(32 * 9, 48), nn.ReLU(inplace=True), nn.Linear(48, 10)
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d((3, 3)), nn.Flatten(), *head)


class KeywordSpotter(nn.Module):
    """1-D convolutions over time, as in M5: [N, 16, 64] features of sound -> log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(16, 24, 9, stride=2, padding=4), nn.BatchNorm1d(24)
        self.depthwise, self.bn2 = nn.Conv1d(24, 24, 3, padding=1, groups=24), nn.BatchNorm1d(24)
        self.point, self.bn3 = nn.Conv1d(24, 32, 1), nn.BatchNorm1d(32)
        self.pool1, self.pool2 = nn.MaxPool1d(2), nn.AvgPool1d(2)
        self.fc1 = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(self.bn3(self.point(F.relu(self.bn2(self.depthwise(x))))))
        x = self.pool2(x)
        x = F.avg_pool1d(x, x.shape[-1])
        return self.fc1(x.permute(0, 2, 1)).squeeze(1)  # type: ignore[no-any-return]

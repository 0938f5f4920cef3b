"""EfficientNet-B0 (Tan and Le, 2019) and its form for integer hardware, EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from qkd_deploy.models.initialize import kaiming_normal

STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride of the first block, channels, blocks: table 1 of the paper."""
_STEM, _HEAD, _DROPOUT = 32, 1280, 0.2

Activation = Callable[[], nn.Module]


class EfficientNet(nn.Module):
    """Inverted residuals found by architecture search; float [N, in_channels, H, W] -> logits [N, num_classes].

    Parameters and buffers have the names of torchvision's ``efficientnet_b0``, so that its weights load. As there,
    batch norms have PyTorch's usual epsilon; unlike there, no block is dropped at random in training.

    Args:
        lite: ReLU6 instead of SiLU and no squeeze-excite, as in EfficientNet-Lite0.
        num_classes: length of the logits.
        in_channels: channels of the images.
        small_images: keep the resolution in the stem and the second stage, for images of about 32x32 pixels, which
            are 4x4 at the end; 224x224 ones are 7x7 at the end of the published form.
    """

    def __init__(self, lite: bool, num_classes: int, in_channels: int = 3, small_images: bool = False) -> None:
        super().__init__()
        activation: Activation = _relu6 if lite else _silu
        features: list[nn.Module] = [unit(in_channels, _STEM, 3, 1 if small_images else 2, activation=activation)]
        width = _STEM
        for number, (expansion, kernel, stride, channels, count) in enumerate(STAGES):
            first = 1 if small_images and number == 1 else stride
            blocks = []
            for index in range(count):
                strides = first if index == 0 else 1
                blocks.append(MBConv(width, channels, expansion, kernel, strides, activation, excite=not lite))
                width = channels
            features.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*features, unit(width, _HEAD, 1, activation=activation))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(_HEAD, num_classes))
        kaiming_normal(self)
        bound = num_classes**-0.5
        nn.init.uniform_(self.classifier[1].weight, -bound, bound)  # type: ignore[arg-type]
        nn.init.zeros_(self.classifier[1].bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits [N, num_classes] of float images [N, in_channels, H, W]."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))  # type: ignore[no-any-return]


class MBConv(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-excite, 1x1 projection; a shortcut where shapes agree."""

    def __init__(
        self, in_width: int, width: int, expansion: int, kernel: int, stride: int, activation: Activation, excite: bool
    ) -> None:
        super().__init__()
        hidden = in_width * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [unit(in_width, hidden, 1, activation=activation)]
        layers.append(unit(hidden, hidden, kernel, stride, groups=hidden, activation=activation))
        if excite:
            layers.append(SqueezeExcite(hidden, in_width // 4))
        self.block = nn.Sequential(*layers, unit(hidden, width, 1))
        self.shortcut = stride == 1 and in_width == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to float [N, in_width, H, W]."""
        return self.block(x) + x if self.shortcut else self.block(x)  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """Scale channels by a gate that two 1x1 convolutions compute from their means (Hu et al., 2018)."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.activation = nn.SiLU()
        self.fc2 = nn.Conv2d(squeezed, width, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the gate to float [N, width, H, W]."""
        return x * self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))  # type: ignore[no-any-return]


def unit(
    in_width: int, width: int, kernel: int, stride: int = 1, groups: int = 1, activation: Activation | None = None
) -> nn.Sequential:
    """Chain a convolution that keeps the size (but for the stride), a batch norm and perhaps an activation."""
    conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    tail = () if activation is None else (activation(),)
    return nn.Sequential(conv, nn.BatchNorm2d(width), *tail)


def _relu6() -> nn.Module:
    return nn.ReLU6(inplace=True)


def _silu() -> nn.Module:
    return nn.SiLU(inplace=True)

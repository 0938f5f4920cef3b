"""MobileNetV2 (Sandler et al., 2018)."""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.models.initialize import kaiming_normal

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, stride of the first block: table 2 of the paper."""
_STEM, _HEAD, _DROPOUT = 32, 1280, 0.2


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks and ReLU6; float [N, in_channels, H, W] -> logits [N, num_classes].

    Parameters and buffers have the names and shapes of torchvision's ``mobilenet_v2``, so that its weights load.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the images.
        width_multiplier: factor of all channel counts, which are rounded to multiples of 8; the last convolution is
            never narrower than 1,280.
        small_images: keep the resolution in the stem and the second stage, for images of about 32x32 pixels, which
            are 4x4 at the end; 224x224 ones are 7x7 at the end of the published form.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width_multiplier: float = 1.0, small_images: bool = False
    ) -> None:
        super().__init__()
        width = rounded(_STEM * width_multiplier)
        features: list[nn.Module] = [unit(in_channels, width, 3, stride=1 if small_images else 2)]
        for number, (expansion, channels, blocks, stride) in enumerate(_STAGES):
            out_width = rounded(channels * width_multiplier)
            for block in range(blocks):
                halve = stride == 2 and block == 0 and not (small_images and number == 1)
                features.append(InvertedResidual(width, out_width, expansion, 2 if halve else 1))
                width = out_width
        head = rounded(_HEAD * max(1.0, width_multiplier))
        self.features = nn.Sequential(*features, unit(width, head, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(head, num_classes))
        kaiming_normal(self)
        nn.init.normal_(self.classifier[1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.classifier[1].bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits [N, num_classes] of float images [N, in_channels, H, W]."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection without activation; a shortcut where shapes agree."""

    def __init__(self, in_width: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_width * expansion
        expand = [] if expansion == 1 else [unit(in_width, hidden, 1)]
        depthwise = unit(hidden, hidden, 3, stride, groups=hidden)
        self.conv = nn.Sequential(*expand, depthwise, nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width))
        self.shortcut = stride == 1 and in_width == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to float [N, in_width, H, W]."""
        return x + self.conv(x) if self.shortcut else self.conv(x)  # type: ignore[no-any-return]


def unit(in_width: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Chain a convolution that keeps the size (but for the stride), a batch norm and a ReLU6."""
    conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU6(inplace=True))


def rounded(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of ``divisor`` that is not more than 10 % below ``channels``."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest

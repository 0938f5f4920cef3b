"""EfficientNet-Lite with the names and the padding of the published ImageNet weights, for ``--model``.

    qkd-deploy export --model benchmarks.efficientnet_lite:lite0 ...

The networks are those of Tan and Le (2019) without squeeze-excite and with ReLU6. Their weights were trained in
TensorFlow, whose "SAME" padding puts the odd row and column behind the image, and expect ``(pixel - 127) / 128``.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from qkd_deploy.models.efficientnet import STAGES

_STEM, _HEAD, _DROPOUT = 32, 1280, 0.2
_batch_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class EfficientNetLite(nn.Module):
    """Float [N, 3, H, W] -> logits [N, num_classes].

    Args:
        depth: factor on the number of blocks, which is rounded up; the first and the last stage keep theirs.
        width: factor on the channels between stem and head, which are rounded to multiples of 8.
        num_classes: length of the logits.
    """

    def __init__(self, depth: float, width: float, num_classes: int = 1000) -> None:
        super().__init__()
        self._pad = _padding(3, 2)
        self._conv_stem = nn.Conv2d(3, _STEM, 3, 2, bias=False)
        self._bn0 = _batch_norm(_STEM)
        self._relu0 = nn.ReLU6(inplace=True)
        blocks: list[nn.Module] = []
        channels = _STEM
        for number, (expansion, kernel, stride, wanted, count) in enumerate(STAGES):
            outer = number in (0, len(STAGES) - 1)
            for index in range(count if outer else math.ceil(depth * count)):
                block = _Block(channels, _rounded(wanted * width), expansion, kernel, stride if index == 0 else 1)
                channels = block.channels
                blocks.append(block)
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, _HEAD, 1, bias=False)
        self._bn1 = _batch_norm(_HEAD)
        self._relu1 = nn.ReLU6(inplace=True)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(_DROPOUT)
        self._fc = nn.Linear(_HEAD, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits of normalised images."""
        x = self._relu0(self._bn0(self._conv_stem(self._pad(x))))
        x = self._relu1(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(self._dropout(torch.flatten(self._avg_pooling(x), 1)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; a shortcut where shapes agree."""

    def __init__(self, width: int, channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = width * expansion
        self._expand_conv: nn.Module = nn.Identity()
        self._bn0: nn.Module = nn.Identity()
        self._relu0: nn.Module = nn.Identity()
        if expansion != 1:
            self._expand_conv, self._bn0 = nn.Conv2d(width, hidden, 1, bias=False), _batch_norm(hidden)
            self._relu0 = nn.ReLU6(inplace=True)
        self._pad, own = (nn.Identity(), kernel // 2) if stride == 1 else (_padding(kernel, stride), 0)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, own, groups=hidden, bias=False)
        self._bn1 = _batch_norm(hidden)
        self._relu1 = nn.ReLU6(inplace=True)
        self._project_conv = nn.Conv2d(hidden, channels, 1, bias=False)
        self._bn2 = _batch_norm(channels)
        self.channels = channels
        self._shortcut = stride == 1 and width == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to float [N, width, H, W]."""
        y = self._relu0(self._bn0(self._expand_conv(x)))
        y = self._relu1(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return y + x if self._shortcut else y  # type: ignore[no-any-return]


def _padding(kernel: int, stride: int) -> nn.Module:
    """TensorFlow's "SAME" padding of an image of even size; the weights were trained with it at odd sizes as well."""
    total = kernel - stride
    before = total // 2
    return nn.ZeroPad2d((before, total - before, before, total - before))


def _rounded(channels: float) -> int:
    """Round to the nearest multiple of 8, but never below 90 %."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def lite0(num_classes: int = 1000) -> nn.Module:
    """EfficientNet-Lite0, for images of 224x224."""
    return EfficientNetLite(1.0, 1.0, num_classes)


def lite1(num_classes: int = 1000) -> nn.Module:
    """EfficientNet-Lite1, for images of 240x240."""
    return EfficientNetLite(1.1, 1.0, num_classes)


def lite2(num_classes: int = 1000) -> nn.Module:
    """EfficientNet-Lite2, for images of 260x260."""
    return EfficientNetLite(1.2, 1.1, num_classes)

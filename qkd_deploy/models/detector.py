"""A small single-stage detector without anchors: a backbone, a feature pyramid, and heads for scores and boxes.

Pyramid: Lin et al., 2017. Heads and box distributions: Li et al., 2020 (Generalized Focal Loss).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qkd_deploy.errors import UserError
from qkd_deploy.models.backbones import create_backbone, maps_of
from qkd_deploy.models.initialize import kaiming_normal

_COARSEST = 5
"""The last level has a stride of 2^5 = 32 pixels."""
_PRIOR = 0.01
"""Scores with which an untrained network begins: most places show nothing."""
_DECAY = 0.5
"""An untrained network prefers short distances: each bin's logit is so much below that of the one before it."""


class Detector(nn.Module):
    """Float [N, in_channels, H, W], H and W multiples of 32 -> raw maps of each level, from the finest to stride 32.

    The answer is ``(scores, boxes, scores, boxes, ...)``: logits [N, num_classes, h, w], and for each of the four sides
    of a box, left, top, right, bottom, a distribution over its distance from the place, as logits [N, 4 * bins, h, w];
    bin ``i`` means ``i`` strides. Training and evaluation mode answer alike; ``tasks.detection`` makes boxes of it.

    Each level has heads of its own: batch norms fold into their convolutions, and every tensor has a grid of its own.
    The modules ``p3``, ``p4`` and ``p5`` make the pyramid's maps of strides 8, 16 and 32 (``p2`` that of stride 4).

    Args:
        num_classes: of objects.
        in_channels: channels of the images.
        backbone: a built-in classifier, ``timm:NAME`` or ``package.module:factory``; see `create_backbone`. Where it
            ends before stride 32, convolutions of stride 2 go on from there.
        backbone_args: keyword arguments of the backbone's factory.
        neck_channels: of the pyramid and the heads.
        head_layers: 3x3 convolutions of a head before its last, 1x1 convolution.
        depthwise: 3x3 convolutions are depthwise ones followed by 1x1 convolutions, instead of plain ones.
        bins: of the distributions; boxes reach ``bins - 1`` strides to each side.
        finest_stride: of the first level: 8, or 4 where objects are small, or 16.

    Raises:
        UserError: an argument out of range, or a backbone that makes no map of the finest stride.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "resnet18",
        backbone_args: Mapping[str, Any] | None = None,
        neck_channels: int = 64,
        head_layers: int = 2,
        depthwise: bool = True,
        bins: int = 16,
        finest_stride: int = 8,
    ) -> None:
        super().__init__()
        if finest_stride not in (4, 8, 16):
            raise UserError(f"finest_stride is {finest_stride}; give 4, 8 or 16")
        if bins < 2 or neck_channels < 1 or head_layers < 0:
            raise UserError(
                f"{bins} bins, {neck_channels} neck_channels and {head_layers} head_layers make no detector; "
                "give at least 2, 1 and 0"
            )
        self._levels = tuple(range(finest_stride.bit_length() - 1, _COARSEST + 1))
        self.backbone = create_backbone(backbone, in_channels, backbone_args)
        maps = maps_of(self.backbone, in_channels, backbone)
        self.extra = nn.ModuleList(self._extra_levels(maps, neck_channels))
        if any(2**level not in maps for level in self._levels):
            raise UserError(
                f"{backbone} makes maps of strides {sorted(maps)}, not of {finest_stride}; raise finest_stride"
            )
        self._places = {level: maps[2**level][0] for level in self._levels}
        for level in self._levels:
            self.add_module(f"lateral{level}", unit(maps[2**level][1], neck_channels, 1))
            self.add_module(f"p{level}", spatial(neck_channels, depthwise))
            for head, outputs in (("scores", num_classes), ("boxes", 4 * bins)):
                layers = [spatial(neck_channels, depthwise) for _ in range(head_layers)]
                self.add_module(f"{head}{level}", nn.Sequential(*layers, nn.Conv2d(neck_channels, outputs, 1)))
        self._initialize(bins)

    @staticmethod
    def _extra_levels(maps: dict[int, tuple[int, int]], width: int) -> list[nn.Module]:
        """Go on from a backbone's last map to stride 32, and enter the new maps into ``maps``."""
        extra: list[nn.Module] = []
        while (stride := max(maps)) < 2**_COARSEST:
            place, channels = maps[stride]
            extra.append(unit(channels, width, 3, stride=2))
            maps[2 * stride] = (place + 1, width)
        return extra

    def _initialize(self, bins: int) -> None:
        """Draw the weights of all but the backbone; scores begin near nothing, boxes about three strides wide."""
        for name, module in self.named_children():
            if name != "backbone":
                kaiming_normal(module)
        for level in self._levels:
            for head in ("scores", "boxes"):
                last = self.get_submodule(f"{head}{level}")[-1]  # type: ignore[index]
                nn.init.normal_(last.weight, std=0.01)
                if head == "scores":
                    nn.init.constant_(last.bias, math.log(_PRIOR / (1 - _PRIOR)))
                else:
                    last.bias.data = -_DECAY * torch.arange(bins).repeat(4)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the raw maps of float images [N, in_channels, H, W]."""
        maps = list(self.backbone(images))
        for module in self.extra:
            maps.append(module(maps[-1]))
        answers: list[Tensor] = []
        top: Tensor | None = None
        for level in reversed(self._levels):
            lateral = self.get_submodule(f"lateral{level}")(maps[self._places[level]])
            top = lateral if top is None else lateral + functional.interpolate(top, scale_factor=2.0, mode="nearest")
            feature = self.get_submodule(f"p{level}")(top)
            heads = [self.get_submodule(f"{head}{level}")(feature) for head in ("scores", "boxes")]
            answers = [*heads, *answers]
        return tuple(answers)


def unit(in_width: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Chain a convolution that keeps the size (but for the stride), a batch norm and a ReLU."""
    conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def spatial(width: int, depthwise: bool) -> nn.Sequential:
    """Make a 3x3 convolution, or a depthwise one and a 1x1 convolution, each with batch norm and ReLU."""
    if depthwise:
        return nn.Sequential(unit(width, width, 3, groups=width), unit(width, width, 1))
    return unit(width, width, 3)

"""A small network for segmentation: a backbone, a feature pyramid, and a class for each place of its finest map.

Pyramid: Lin et al., 2017; summed up to one map as in Kirillov et al., 2019 (Panoptic Feature Pyramid Networks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from qkd_deploy.errors import UserError
from qkd_deploy.models.backbones import create_backbone, maps_of
from qkd_deploy.models.detector import spatial, unit
from qkd_deploy.models.initialize import kaiming_normal


class Segmenter(nn.Module):
    """Float [N, in_channels, H, W] -> logits [N, num_classes, H / finest_stride, W / finest_stride], sizes rounded up.

    Loss and measure bring the logits to the size of masks. All layers have integer kernels: maps grow by nearest
    upsampling, and are cut where a finer one has an odd size.

    Args:
        num_classes: length of the logits of a place.
        in_channels: channels of the images.
        backbone: a built-in classifier, ``timm:NAME`` or ``package.module:factory``; see `create_backbone`.
        backbone_args: keyword arguments of the backbone's factory.
        width: channels of the pyramid, and of the feature that the last layer reads.
        finest_stride: of the logits; the pyramid begins there and goes to the backbone's last map.
        depthwise: 3x3 convolutions are depthwise ones followed by 1x1 convolutions, instead of plain ones.

    Raises:
        UserError: an argument out of range, or a backbone that makes no map of the finest stride.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        backbone: str = "efficientnet_lite0",
        backbone_args: Mapping[str, Any] | None = None,
        width: int = 64,
        finest_stride: int = 4,
        depthwise: bool = True,
    ) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"the width of a segmenter is {width}; give 1 or more")
        self.backbone = create_backbone(backbone, in_channels, backbone_args)
        maps = maps_of(self.backbone, in_channels, backbone)
        if finest_stride not in maps:
            known = ", ".join(map(str, maps))
            raise UserError(
                f"{backbone} makes maps of strides {known}, not of {finest_stride}; give another finest_stride"
            )
        levels = [(place, channels) for stride, (place, channels) in sorted(maps.items()) if stride >= finest_stride]
        self._places = [place for place, _ in levels]
        self.laterals = nn.ModuleList(unit(channels, width, 1) for _, channels in levels)
        self.merges = nn.ModuleList(spatial(width, depthwise) for _ in levels)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for module in (self.laterals, self.merges, self.classifier):
            kaiming_normal(module)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [N, num_classes, h, w] of float images [N, in_channels, H, W]."""
        maps = self.backbone(images)
        top: Tensor | None = None
        for place, lateral, merge in zip(self._places[::-1], self.laterals[::-1], self.merges[::-1], strict=True):
            x = lateral(maps[place])
            top = merge(x if top is None else x + _grown(top, x.shape[2], x.shape[3]))
        return self.classifier(top)  # type: ignore[no-any-return]


def _grown(x: Tensor, height: int, width: int) -> Tensor:
    """Double the size of a map, less the last row or column where the finer one has none."""
    grown = functional.interpolate(x, scale_factor=2.0, mode="nearest")
    return grown if grown.shape[2:] == (height, width) else grown[:, :, :height, :width]

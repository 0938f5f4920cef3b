"""Crop and resize, or map affinely, uint8 images at random: one interpolation for a whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import torch
import torch.nn.functional as F

from qkd_deploy.data.augment.transform import Drawn
from qkd_deploy.pixels.normalization import ZERO_POINT


@dataclass(frozen=True)
class ResizedCrop(Drawn):
    """Take a box of random size, shape and place out of each image and bring it back to the image's size.

    Attributes:
        area: least and largest share of the image's area, uniform between them.
        ratio: largest ratio of the box's sides in pixels, to either side, log-uniform; boxes that would not fit into
            the image are cut to its width or height.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: float = 4 / 3

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Draw four numbers for each image, float32 [count, 4] in 0..1, which `boxes` reads."""
        return (torch.rand((count, 4), generator=generator, device=generator.device),)

    def apply(self, images: torch.Tensor, *drawn: torch.Tensor) -> torch.Tensor:
        """Resize the crops bilinearly to uint8 [N, C, H, W]."""
        height, width = images.shape[2:]
        left, top, right, bottom = self.boxes(drawn[0], height, width).unbind(1)
        maps = torch.zeros(len(images), 2, 3)
        maps[:, 0, 0], maps[:, 0, 2] = (right - left) / width, (left + right) / width - 1
        maps[:, 1, 1], maps[:, 1, 2] = (bottom - top) / height, (top + bottom) / height - 1
        return affine(images, maps, padding="border")

    def boxes(self, numbers: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Compute boxes float32 [N, 4] (left, top, right, bottom) in pixels within images of that size."""
        least, largest = self.area
        area = (least + (largest - least) * numbers[:, 0]) * height * width
        # In float64, so that no rounding depends on how many images are cropped together.
        shape = torch.exp(log(self.ratio) * (2 * numbers[:, 1].double() - 1)).float()
        wide, high = (area * shape).sqrt().clamp(max=width), (area / shape).sqrt().clamp(max=height)
        left, top = (width - wide) * numbers[:, 2], (height - high) * numbers[:, 3]
        return torch.stack([left, top, (left + wide).clamp(max=width), (top + high).clamp(max=height)], dim=1)


def affine(
    images: torch.Tensor,
    maps: torch.Tensor,
    padding: Literal["zeros", "border"] = "zeros",
    fill: int = ZERO_POINT,
) -> torch.Tensor:
    """Look up every pixel where ``maps`` say, bilinearly.

    Args:
        images: uint8 [N, C, H, W].
        maps: float32 [N, 2, 3], from places in the result to places in the image; both run from -1 to 1, from edge
            to edge, x first.
        padding: outside of an image is one grey ("zeros"), or its nearest pixel ("border").
        fill: that grey; by default what is zero after `centered` normalisation.

    Returns:
        uint8 [N, C, H, W] on the device of ``images``.
    """
    grid = F.affine_grid(maps.to(images.device), list(images.shape), align_corners=False)
    found = F.grid_sample(images.to(torch.float32).sub_(fill), grid, padding_mode=padding, align_corners=False)
    return found.add_(fill).round_().clamp_(0, 255).to(torch.uint8)

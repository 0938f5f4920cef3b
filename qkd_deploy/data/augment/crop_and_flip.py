"""Crop uint8 images at random places of their padded selves and mirror them, a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from qkd_deploy.data.augment.transform import Drawn
from qkd_deploy.pixels.normalization import ZERO_POINT


@dataclass(frozen=True)
class CropAndFlip(Drawn):
    """Crop each image at its own random place out of its padded self, then mirror every second one or so.

    Attributes:
        pad: pixels added on each side before cropping back to the old size; 0 leaves the position alone. Offsets are
            uniform over the ``(2 * pad + 1) ** 2`` places.
        flip: mirror left and right with probability 1/2 (wrong for digits and letters).
        fill: the added pixels' value, 0..255; 128 is zero after `centered` normalisation, what a convolution pads with.
    """

    pad: int
    flip: bool
    fill: int = ZERO_POINT

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Draw row and column offsets int64 [count, 1] from 0 to ``2 * pad``, and bool [count, 1]: mirrored or not."""
        offsets = torch.randint(2 * self.pad + 1, (2, count, 1), generator=generator, device=generator.device)
        mirrored = torch.rand((count, 1), generator=generator, device=generator.device) < (0.5 if self.flip else 0.0)
        return offsets[0], offsets[1], mirrored

    def apply(self, images: torch.Tensor, *drawn: torch.Tensor) -> torch.Tensor:
        """Cut the crops uint8 [N, C, H, W]."""
        top, left, mirrored = (parameter.to(images.device) for parameter in drawn)
        height, width = images.shape[2:]
        padded = F.pad(images, (self.pad,) * 4, value=self.fill)
        # A view of all places [N, C, 2 * pad + 1, 2 * pad + 1, H, W], of which one is copied for each image.
        places = padded.unfold(2, height, 1).unfold(3, width, 1)
        crops = places[torch.arange(len(images), device=images.device), :, top.flatten(), left.flatten()]
        return torch.where(mirrored.view(-1, 1, 1, 1), crops.flip(3), crops)


UNCHANGED = CropAndFlip(pad=0, flip=False)
"""No augmentation."""

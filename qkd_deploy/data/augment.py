"""Random crops and flips of uint8 images, a whole batch at once, on the device that holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from qkd_deploy.data.normalize import MEAN


@dataclass(frozen=True)
class Augmentation:
    """What training may do to a data set's images.

    Attributes:
        pad: pixels added on each side before cropping back to the old size; 0 leaves the position alone.
        flip: mirror left and right with probability 1/2 (wrong for digits and letters).
        fill: the added pixels' value, 0..255; 128 is zero after normalisation, what a convolution pads with.
    """

    pad: int
    flip: bool
    fill: int = int(MEAN)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment uint8 images [N, C, H, W]; see `augment`."""
        return augment(images, generator, self.pad, self.flip, self.fill)


UNCHANGED = Augmentation(pad=0, flip=False)


def augment(
    images: torch.Tensor, generator: torch.Generator, pad: int = 4, flip: bool = True, fill: int = int(MEAN)
) -> torch.Tensor:
    """Crop each image at its own random place out of its padded self, then mirror every second one or so.

    Offsets are uniform over the ``(2 * pad + 1) ** 2`` places. Random numbers come from ``generator`` alone and are
    drawn on its device, so a CPU generator gives the same crops whatever device holds the images.

    Args:
        images: uint8 [N, C, H, W].
        generator: source of all randomness; its state advances.
        pad: pixels added on each side before cropping.
        flip: whether images are mirrored, each with probability 1/2.
        fill: value of the added pixels, 0..255.

    Returns:
        uint8 [N, C, H, W] on the device of ``images``; the input is left as it is.
    """
    count, channels, height, width = images.shape
    offsets = torch.randint(2 * pad + 1, (2, count, 1), generator=generator, device=generator.device)
    mirrored = torch.rand((count, 1), generator=generator, device=generator.device) < (0.5 if flip else 0.0)
    offsets, mirrored = offsets.to(images.device), mirrored.to(images.device)

    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    columns = offsets[1] + torch.where(mirrored, width - 1 - columns, columns)
    # One flat index of [N, 1, H * W] positions per padded plane, the same for every channel of an image.
    places = rows.unsqueeze(2) * (width + 2 * pad) + columns.unsqueeze(1)
    places = places.view(count, 1, height * width).expand(count, channels, height * width)
    planes = F.pad(images, (pad, pad, pad, pad), value=fill).flatten(2)
    return planes.gather(2, places).view_as(images)

"""Scale, crop, mirror and recolour uint8 images together with their masks."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch

from qkd_deploy.data.augment.colour import ColourJitter
from qkd_deploy.data.augment.geometry import affine
from qkd_deploy.data.augment.transform import EVERYTHING, JointTransform
from qkd_deploy.tasks.segmentation import IGNORED


@dataclass(frozen=True)
class MaskedCrop(JointTransform):
    """Bring each image and its mask to a random scale, cut or pad both to their old size at a random place, and flip.

    Images are looked up bilinearly and masks at the nearest pixel. What lies outside of an image is zero after
    `centered` normalisation, and ignored in the mask.

    Attributes:
        scale: smallest and largest factor, log-uniform between them; height and width change alike.
        flip: mirror left and right with probability 1/2.
        colour: brightness, contrast and saturation of images change by factors of up to 1 -+ this.
    """

    scale: tuple[float, float] = (0.75, 1.5)
    flip: bool = True
    colour: float = 0.3

    def __call__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change images uint8 [N, C, H, W] and masks uint8 [N, H, W]; see `JointTransform`."""
        whole = len(images) if count is None else count
        numbers = torch.rand((whole, 4), generator=generator, device=generator.device)[place].double().cpu()
        jitter = ColourJitter(self.colour)
        factors = [factor[place] for factor in jitter.draw(whole, generator)]
        if not len(images):
            return images, targets
        mirrored = (numbers[:, 3] < 0.5) & self.flip
        changed = _images(images, self.boxes(numbers, *images.shape[2:]), mirrored)
        # masks may be of another size than their images
        return jitter.apply(changed, *factors), _masks(targets, self.boxes(numbers, *targets.shape[1:]), mirrored)

    def boxes(self, numbers: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Compute what is seen of images of that size, from numbers float64 [N, 4] in 0..1.

        Returns:
            float64 [N, 4] (left, top, width, height) in pixels; boxes are larger than the image at scales below 1,
            which then lies at a random place inside of them.
        """
        least, largest = (log(factor) for factor in self.scale)
        share = torch.exp(-(least + (largest - least) * numbers[:, 0]))
        wide, high = share * width, share * height
        return torch.stack([(width - wide) * numbers[:, 1], (height - high) * numbers[:, 2], wide, high], dim=1)


def _images(images: torch.Tensor, boxes: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Look the boxes up bilinearly."""
    height, width = images.shape[2:]
    left, top, wide, high = boxes.unbind(1)
    maps = torch.zeros(len(images), 2, 3)
    maps[:, 0, 0] = torch.where(mirrored, -wide, wide) / width
    maps[:, 0, 2] = (2 * left + wide) / width - 1
    maps[:, 1, 1] = high / height
    maps[:, 1, 2] = (2 * top + high) / height - 1
    return affine(images, maps)


def _masks(masks: torch.Tensor, boxes: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Look the boxes up at the nearest pixel: that in which the middle of the wanted one lies."""
    height, width = masks.shape[1:]
    left, top, wide, high = boxes.unbind(1)
    columns, columns_seen = _places(left, wide, width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    columns_seen = torch.where(mirrored[:, None], columns_seen.flip(1), columns_seen)
    rows, rows_seen = _places(top, high, height)
    device = masks.device
    number = torch.arange(len(masks), device=device)[:, None, None]
    found = masks[number, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    seen = (rows_seen[:, :, None] & columns_seen[:, None, :]).to(device)
    return found.masked_fill(~seen, IGNORED)


def _places(start: torch.Tensor, length: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the pixels int64 [N, size] along one side, and which of them are there; others become the nearest one."""
    middles = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    places = (start[:, None] + length[:, None] * middles).floor().long()
    return places.clamp(0, size - 1), (places >= 0) & (places < size)

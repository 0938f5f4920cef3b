"""Put four images of a batch, with their boxes, together into one (Bochkovskiy et al., arXiv:2004.10934)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qkd_deploy.data.augment.geometry import affine
from qkd_deploy.data.augment.transform import EVERYTHING, JointTransform
from qkd_deploy.data.augment.visible_boxes import seen_within
from qkd_deploy.data.images.placement import BORDER
from qkd_deploy.tasks.detection.targets import BOX, CLASS, COLUMNS, PADDING

_IMAGES = 4
_MIDDLE = 0.5
"""The corner in which four images meet lies within this share of width and height, in the middle."""


@dataclass(frozen=True)
class Mosaic(JointTransform):
    """Show each image with its three neighbours around a random point, all of them at one random scale.

    Neighbours are the other images of each four in a batch, whose order is random: an incomplete four at its end stays
    as it is. The four meet with the corners that are nearest to the point, and what no image covers is grey.

    Attributes:
        share: of the images that become mosaics; the others stay as they are.
        scale: smallest and largest factor of the four images, uniform between them.
    """

    share: float = 0.5
    scale: tuple[float, float] = (0.5, 1.0)

    @property
    def group(self) -> int:
        """Neighbours that have to stay together."""
        return _IMAGES

    def __call__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change images uint8 [N, C, H, W] and targets float32 [N, M, 6], which become [N, 4 M, 6].

        Raises:
            ValueError: the part of a batch divides a four.
        """
        whole = len(images) if count is None else count
        if len(images) and place.indices(whole)[0] % _IMAGES:
            raise ValueError(f"a part of a batch begins at image {place.start}, within four that belong together")
        numbers = torch.rand((whole, 4), generator=generator, device=generator.device)[place]
        wider = torch.zeros(len(images), _IMAGES * targets.shape[1], COLUMNS, device=targets.device)
        wider[:, :, CLASS] = PADDING
        wider[:, : targets.shape[1]] = targets
        own = torch.arange(len(images), device=numbers.device)
        used = torch.where((numbers[:, 0] < self.share) & ((own | 3) < len(images)))[0]
        if not len(used):
            return images, wider
        place_, numbers = used.to(images.device), numbers[used]
        images = images.clone()
        images[place_], wider[used.to(targets.device)] = self._mosaics(images, targets, used, numbers)
        return images, wider

    def _mosaics(
        self, images: torch.Tensor, targets: torch.Tensor, used: torch.Tensor, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the mosaics of the images ``used`` [n], and their targets [n, 4 M, 6]."""
        height, width = images.shape[2:]
        size = torch.tensor([width, height], device=numbers.device)
        centre = (size * (0.5 + _MIDDLE * (numbers[:, 1:3] - 0.5))).round()
        gain = self.scale[0] + (self.scale[1] - self.scale[0]) * numbers[:, 3:4]
        shown = images.new_full((len(used), *images.shape[1:]), BORDER)
        rows = []
        for quarter in range(_IMAGES):
            side = torch.tensor([quarter & 1, quarter >> 1], device=numbers.device)
            origin = centre - (1 - side) * size * gain  # where the image's left top corner lies
            partner = used ^ quarter
            seen = _lookup(images[partner.to(images.device)], origin, gain)
            across, down = (_beyond(centre[:, k], length, side[k]) for k, length in ((0, width), (1, height)))
            quarter_of = (down[:, None, :, None] & across[:, None, None, :]).to(images.device)
            shown = torch.where(quarter_of, seen, shown)
            limits = torch.cat([side * centre, torch.where(side == 1, size.to(centre.dtype), centre)], dim=1)
            rows.append(_boxes(targets[partner.to(targets.device)], origin, gain, limits))
        return shown, _real_ones_first(torch.cat(rows, dim=1))


def _lookup(images: torch.Tensor, origin: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Show images at a scale, their left top corner at ``origin`` [n, 2] in pixels."""
    size = torch.tensor([images.shape[3], images.shape[2]], device=origin.device)
    maps = torch.zeros(len(images), 2, 3, device=origin.device)
    maps[:, 0, 0] = maps[:, 1, 1] = 1 / gain[:, 0]
    # a place p of the mosaic shows (p - origin) / gain, in coordinates that run from -1 to 1
    maps[:, :, 2] = (1 - 2 * origin / size) / gain - 1
    return affine(images, maps, fill=BORDER)


def _beyond(centre: torch.Tensor, length: int, side: torch.Tensor) -> torch.Tensor:
    """Mark, bool [n, length], the pixels on one side of the point."""
    after = torch.arange(length, device=centre.device)[None] >= centre[:, None]
    return after == side.bool()


def _boxes(targets: torch.Tensor, origin: torch.Tensor, gain: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    origin, gain, limits = (value.to(targets.device) for value in (origin, gain, limits))
    corners = targets[:, :, BOX] * gain[:, :, None] + origin.repeat(1, 2)[:, None]
    return seen_within(targets, corners, limits)


def _real_ones_first(targets: torch.Tensor) -> torch.Tensor:
    """Put padding behind the boxes, so that batches can leave it out."""
    order = (targets[:, :, CLASS] == PADDING).to(torch.uint8).argsort(dim=1, stable=True)
    return targets.gather(1, order[:, :, None].expand_as(targets))

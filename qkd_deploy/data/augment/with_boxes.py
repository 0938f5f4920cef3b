"""Mirror, scale and move uint8 images together with their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qkd_deploy.data.augment.colour import ColourJitter
from qkd_deploy.data.augment.geometry import affine
from qkd_deploy.data.augment.joint import JointChain
from qkd_deploy.data.augment.mosaic import Mosaic
from qkd_deploy.data.augment.transform import EVERYTHING, JointTransform
from qkd_deploy.data.augment.visible_boxes import seen_within
from qkd_deploy.data.images.placement import BORDER
from qkd_deploy.tasks.detection.targets import BOX

_COLOUR = 0.3


@dataclass(frozen=True)
class BoxedMove(JointTransform):
    """Bring each image to a random scale, move it by a random part of its size, and mirror every second one or so.

    What comes into view beyond the image is the grey of letterboxed images. Boxes of which too little is left are no
    longer there.

    Attributes:
        scale: smallest and largest factor, uniform between them; height and width change alike.
        shift: largest move to either side, as a share of width and height.
        flip: mirror left and right with probability 1/2.
    """

    scale: tuple[float, float] = (0.5, 1.5)
    shift: float = 0.1
    flip: bool = True

    def __call__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change images uint8 [N, C, H, W] and targets float32 [N, M, 6]; see `JointTransform`."""
        whole = len(images) if count is None else count
        numbers = torch.rand((whole, 4), generator=generator, device=generator.device)[place]
        if not len(images):
            return images, targets
        gain, move = self.gains_and_moves(numbers)
        maps = torch.zeros(len(images), 2, 3, device=gain.device)
        maps[:, 0, 0], maps[:, 1, 1] = (1 / gain).unbind(1)
        maps[:, :, 2] = -move / gain
        return affine(images, maps, fill=BORDER), _moved(targets, gain, move, images.shape[3], images.shape[2])

    def gains_and_moves(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn numbers [N, 4] in 0..1 into factors, negative where mirrored, and moves, both [N, 2] for x and y.

        Coordinates run from -1 to 1 from edge to edge: ``x`` goes to ``gain * x + move``.
        """
        low, high = self.scale
        scale = low + (high - low) * numbers[:, 0]
        mirrored = (numbers[:, 3] < 0.5) & self.flip
        gain = torch.stack([torch.where(mirrored, -scale, scale), scale], dim=1)
        return gain, 2 * self.shift * (2 * numbers[:, 1:3] - 1)


def _moved(targets: torch.Tensor, gain: torch.Tensor, move: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Move boxes as their images are moved."""
    size = targets.new_tensor([width, height])
    gain, move = gain.to(targets.device)[:, None, None], move.to(targets.device)[:, None, None]
    points = targets[:, :, BOX].reshape(len(targets), -1, 2, 2)
    moved = ((2 * points / size - 1) * gain + move + 1) * (size / 2)
    corners = torch.cat([moved.amin(dim=2), moved.amax(dim=2)], dim=2)
    return seen_within(targets, corners, targets.new_tensor([[0, 0, width, height]]))


def usual_with_boxes() -> JointChain:
    """What suits photographs with boxes: a move, a flip and mild colours; "mosaic" puts four images into one before."""
    usual = (BoxedMove(), ColourJitter(_COLOUR))
    return JointChain(usual, {"mosaic": JointChain((Mosaic(), *usual))})

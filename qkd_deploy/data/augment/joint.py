"""Chain changes of images and targets with changes of images alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from qkd_deploy.data.augment.transform import EVERYTHING, JointTransform, Transform


@dataclass(frozen=True)
class JointChain(JointTransform):
    """Apply one change after the other; those of images alone leave the targets as they are.

    Attributes:
        steps: the changes.
        others: other augmentations of the same data, by the name that the user asks for.
    """

    steps: tuple[Transform | JointTransform, ...]
    others: Mapping[str, JointTransform] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Neighbours that have to stay together, by any of the steps."""
        return max((step.group for step in self.steps if isinstance(step, JointTransform)), default=1)

    @property
    def variants(self) -> Mapping[str, JointTransform]:
        """Other augmentations of the same data."""
        return self.others

    def __call__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change images and targets; see `JointTransform`."""
        for step in self.steps:
            if isinstance(step, JointTransform):
                images, targets = step(images, targets, generator, count, place)
            else:
                images = step(images, generator, count, place)
        return images, targets

"""The interface of all augmentations: a transform changes a batch of uint8 images at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

EVERYTHING = slice(None)


class Transform(ABC):
    """Change uint8 images [N, C, H, W], a whole batch at once, on the device that holds them.

    All randomness comes from the generator, which lives on the CPU, so that all devices see the same changes. A process
    that holds only a part of a batch draws for the whole batch and uses its own part: it sees the images that a single
    process would have seen.
    """

    @abstractmethod
    def __call__(
        self,
        images: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> torch.Tensor:
        """Change ``images``.

        Args:
            images: uint8 [N, C, H, W]; left as they are.
            generator: source of all randomness; its state advances as ``count`` demands.
            count: size of the whole batch; by default ``images`` is the whole batch.
            place: where ``images`` are in the whole batch.

        Returns:
            uint8 [N, C, H, W] on the device of ``images``.
        """


class JointTransform(ABC):
    """Change uint8 images [N, C, H, W] together with their targets, such as boxes and masks, a whole batch at once.

    Randomness is as that of a `Transform`.
    """

    @property
    def group(self) -> int:
        """Neighbours of a batch that have to stay together, because they are put into each other; 1: none."""
        return 1

    @property
    def variants(self) -> Mapping[str, JointTransform]:
        """Other augmentations of the same data, by the name that the user asks for."""
        return {}

    @abstractmethod
    def __call__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change images and targets [N, ...], both left as they are; the other arguments are those of a `Transform`."""


class Drawn(Transform):
    """Draw the parameters of every image first, then apply them."""

    def __call__(
        self,
        images: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> torch.Tensor:
        """Change ``images``; see `Transform`."""
        drawn = self.draw(len(images) if count is None else count, generator)
        return self.apply(images, *(parameter[place] for parameter in drawn)) if len(images) else images

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Draw the parameters of ``count`` images; the first dimension of each tensor is ``count``."""

    @abstractmethod
    def apply(self, images: torch.Tensor, *drawn: torch.Tensor) -> torch.Tensor:
        """Change the images; ``drawn`` are on the generator's device."""


@dataclass(frozen=True)
class Chain(Transform):
    """Apply one transform after the other."""

    steps: tuple[Transform, ...]

    def __call__(
        self,
        images: torch.Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = EVERYTHING,
    ) -> torch.Tensor:
        """Change ``images``; see `Transform`."""
        for step in self.steps:
            images = step(images, generator, count, place)
        return images

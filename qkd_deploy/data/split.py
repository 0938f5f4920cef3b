"""Hold images and labels of one part of a data set in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.pixels.normalization import CENTERED, Normalization

UNLABELLED = -1
"""The label of an image whose class is not known."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set, both on one device.

    Attributes:
        images: uint8 [N, C, H, W], raw pixels.
        labels: int64 [N], class numbers from 0, or -1 throughout where no label is known; for a data set with its own
            metric also targets [N, ...] of any type and at least two dimensions.
        normalization: what networks take the pixels as.

    Raises:
        UserError: types or shapes are others than these, or there is no image.
    """

    images: torch.Tensor
    labels: torch.Tensor
    normalization: Normalization = CENTERED

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise UserError(f"images must be uint8 [N, C, H, W], not {_kind(self.images)}; convert them")
        if self.labels.dim() < 1 or (self.labels.dim() == 1 and self.labels.dtype != torch.int64):
            raise UserError(f"labels must be int64 [N], not {_kind(self.labels)}; convert them")
        if len(self.images) != len(self.labels) or not len(self.images):
            raise UserError(f"{len(self.images)} images and {len(self.labels)} labels; give one label to each image")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Device of images, labels and batches."""
        return self.images.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def labelled(self) -> bool:
        """True where labels are known."""
        return not is_unlabelled(self.labels)

    @property
    def notes(self) -> tuple[str, ...]:
        """No sentences for the user: images in memory hold no surprises."""
        return ()

    def to(self, device: torch.device | str) -> Split:
        """Move images and labels to a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def head(self, count: int) -> Split:
        """Take the first ``count`` images, or all where there are fewer."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def images_at(self, indices: torch.Tensor) -> torch.Tensor:
        """Select the images uint8 [n, C, H, W] at ``indices`` (int64 [n]), on the split's device."""
        return self.images.index_select(0, indices.to(self.device))

    def read(self, pieces: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels of each piece, which holds indices int64 [n]."""
        for piece in pieces:
            place = piece.to(self.device)
            yield self.images.index_select(0, place), self.labels.index_select(0, place)

    def identity(self) -> tuple[torch.Tensor, ...]:
        """Return what the fingerprint is made of: all pixels and labels."""
        return self.images, self.labels


def is_unlabelled(labels: torch.Tensor) -> bool:
    """True where all labels are ``UNLABELLED``."""
    return labels.dim() == 1 and bool((labels == UNLABELLED).all())


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

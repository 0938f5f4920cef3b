"""What a data set is: two splits of uint8 images with labels, class names, and an identity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch

from qkd_deploy.data.augment import UNCHANGED, Augmentation
from qkd_deploy.data.fingerprint import fingerprint_of, known_name
from qkd_deploy.data.normalize import MEAN, STD
from qkd_deploy.errors import UserError


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set, both on one device.

    Attributes:
        images: uint8 [N, C, H, W], raw pixels.
        labels: int64 [N], class numbers from 0.

    Raises:
        UserError: types or shapes are others than these, or there is no image.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise UserError(f"images must be uint8 [N, C, H, W], not {_kind(self.images)}; convert them")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise UserError(f"labels must be int64 [N], not {_kind(self.labels)}; convert them")
        if len(self.images) != len(self.labels) or not len(self.images):
            raise UserError(f"{len(self.images)} images and {len(self.labels)} labels; give one label to each image")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device."""
        return Split(self.images.to(device), self.labels.to(device))

    def head(self, count: int) -> Split:
        """The first ``count`` images, or all where there are fewer."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class ImageDataset:
    """A labelled image data set that is held in memory.

    Attributes:
        name: the name the user asks for, such as "cifar10".
        train, test: the two splits; images of both have the same [C, H, W].
        classes: class names; label ``i`` means ``classes[i]``.
        augmentation: what training may do to the images without changing their meaning; nothing by default.
        mean, std: pixels enter a network as ``(pixel - mean) / std``, the same for every data set and channel, so
            that an 8-bit input quantizer (scale 1/64, zero point 128) reproduces the raw pixel exactly.

    Raises:
        UserError: the splits' shapes differ, or a label has no class name.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    augmentation: Augmentation = UNCHANGED
    mean: ClassVar[float] = MEAN
    std: ClassVar[float] = STD

    def __post_init__(self) -> None:
        shapes = [tuple(split.images.shape[1:]) for split in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise UserError(f"data set {self.name}: train images are {shapes[0]}, test images {shapes[1]}; resize one")
        for split in (self.train, self.test):
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                known = f"but its {len(self.classes)} classes are numbered from 0"
                raise UserError(f"data set {self.name} has labels {low}..{high}, {known}; correct one of them")

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 over all pixels and labels of both splits, in order."""
        return fingerprint_of(self.train.images, self.train.labels, self.test.images, self.test.labels)

    @property
    def known_as(self) -> str:
        """The name to write in results: it tells a copy from the original by its fingerprint."""
        return known_name(self.name, self.fingerprint)

    def to(self, device: torch.device | str) -> ImageDataset:
        """The same data set on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

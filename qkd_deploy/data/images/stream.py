"""Stream images and labels of one part of a data set that is too big for memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from qkd_deploy.data.augment.geometry import ResizedCrop
from qkd_deploy.data.images.decode import Pixels
from qkd_deploy.data.images.reader import Item, Plan, Reader
from qkd_deploy.data.split import Split, is_unlabelled
from qkd_deploy.errors import UserError
from qkd_deploy.pixels.normalization import CENTERED, Normalization

_CPU = torch.device("cpu")
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class StreamedSplit:
    """Images that are decoded whenever they are needed, with their labels.

    An image that cannot be read is replaced by the next one of the split that can, label included, and is counted in
    `notes`; the same image is replaced in the same way by every process and in every run.

    Attributes:
        reader: decodes images.
        indices: int64 [N], numbers of the images in the reader's source.
        labels: int64 [N], on the CPU; class numbers from 0, or -1 throughout where no label is known.
        device: of the batches.
        normalization: what networks take the pixels as.
    """

    reader: Reader
    indices: torch.Tensor
    labels: torch.Tensor
    device: torch.device = _CPU
    normalization: Normalization = CENTERED

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.reader.view.shape

    @cached_property
    def labelled(self) -> bool:
        """True where labels are known."""
        return not is_unlabelled(self.labels)

    @property
    def notes(self) -> tuple[str, ...]:
        """Number of images that could not be read so far, in a sentence."""
        return problem_note(self.reader, "replaced by their neighbours")

    def to(self, device: torch.device | str) -> StreamedSplit:
        """Put batches on another device."""
        return replace(self, device=torch.device(device))

    def head(self, count: int) -> StreamedSplit:
        """Take the first ``count`` images, or all where there are fewer."""
        return replace(self, indices=self.indices[:count], labels=self.labels[:count])

    def images_at(self, indices: torch.Tensor) -> torch.Tensor:
        """Decode the images uint8 [n, C, H, W] at ``indices`` (int64 [n]) for evaluation, on the split's device."""
        pieces = torch.split(indices.cpu(), _READ_AT_ONCE)
        return torch.cat([images for images, _ in self.read(pieces)])

    def read(
        self,
        pieces: Sequence[torch.Tensor],
        crop: ResizedCrop | None = None,
        numbers: Sequence[torch.Tensor] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels of each piece, which holds places int64 [n] in this split.

        Args:
            pieces: places to read.
            crop: how training crops the images; None reads them as evaluation sees them.
            numbers: those that ``crop`` drew for the images of each piece, [n, 4].

        Raises:
            UserError: an image cannot be read, where the reader is strict; or none can.
        """
        plan = Plan(
            len(pieces), lambda k: self._items(pieces[k], crop, None if numbers is None else numbers[k].tolist())
        )
        for number, (pixels, problems) in enumerate(self.reader.read(plan)):
            places = pieces[number].clone()
            for position in problems:
                places[position], pixels[position] = self._neighbour(
                    int(places[position]), plan.items(number)[position]
                )
            yield torch.from_numpy(pixels).to(self.device), self.labels[places].to(self.device)

    def _items(
        self, piece: torch.Tensor, crop: ResizedCrop | None = None, numbers: list[list[float]] | None = None
    ) -> list[Item]:
        drawn = [[]] * len(piece) if numbers is None else numbers
        return [(index, crop, tuple(own)) for index, own in zip(self.indices[piece].tolist(), drawn, strict=True)]

    def _neighbour(self, place: int, item: Item) -> tuple[int, Pixels]:
        """Find the next readable image after ``place``, cropped by the same numbers, and where it is."""
        for step in range(1, len(self)):
            following = (place + step) % len(self)
            pixels = self.reader.read_one((int(self.indices[following]), *item[1:]))
            if pixels is not None:
                return following, pixels
        raise self._nothing_readable()

    def _nothing_readable(self) -> UserError:
        index, reason = min(self.reader.unreadable.items())
        name = self.reader.source.name_of(index)
        return UserError(f"none of the {len(self)} images can be read, such as {name} ({reason}); replace the files")

    def in_memory(self) -> Split:
        """Decode all images once, on the CPU, without those that cannot be read.

        Raises:
            UserError: as `read`.
        """
        images = torch.empty((len(self), *self.image_shape), dtype=torch.uint8)
        kept = torch.ones(len(self), dtype=torch.bool)
        pieces = torch.split(torch.arange(len(self)), _READ_AT_ONCE)
        plan = Plan(len(pieces), lambda k: self._items(pieces[k]))
        for piece, (pixels, problems) in zip(pieces, self.reader.read(plan), strict=True):
            images[piece] = torch.from_numpy(pixels)
            kept[piece[list(problems)]] = False
        if not kept.any():
            raise self._nothing_readable()
        return Split(images if kept.all() else images[kept], self.labels[kept], self.normalization)

    def identity(self) -> tuple[torch.Tensor, ...]:
        """Return what the fingerprint is made of: names, sizes and labels of the images, in order."""
        digest = hashlib.sha256()
        for index in self.indices.tolist():
            digest.update(f"{self.reader.source.identity_of(index)}\n".encode())
        return torch.from_numpy(np.frombuffer(digest.digest(), dtype=np.uint8).copy()), self.labels


def problem_note(reader: Reader, consequence: str) -> tuple[str, ...]:
    """Put the images that could not be read into one sentence, or none."""
    if not reader.unreadable:
        return ()
    first, reason = min(reader.unreadable.items())
    count = f"{len(reader.unreadable)} of {len(reader.source)} images cannot be read and are {consequence}"
    return (f"{count}, first {reader.source.name_of(first)} ({reason})",)

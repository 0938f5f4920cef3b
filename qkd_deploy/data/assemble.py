"""From a source of images with labels to a data set: own size, memory or stream, held-out share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from qkd_deploy.data.augment.presets import usual
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.images.decode import Unreadable, View, is_grey
from qkd_deploy.data.images.reader import Reader, Source
from qkd_deploy.data.images.stream import StreamedSplit, problem_note
from qkd_deploy.data.sets.held_out import divided
from qkd_deploy.data.split import UNLABELLED
from qkd_deploy.errors import UserError

MEMORY_BYTES = 3 * 2**29
"""Data sets up to 1.5 GiB of pixels are decoded once and stay in memory."""

_LOOKED_AT = 64
"""Images from which a data set's own size and colours are told."""


@dataclass(frozen=True)
class Options:
    """What the user wants of a data set that is read from image files; see `load_dataset`."""

    image_size: int = 0
    workers: int = 2
    strict: bool = False
    classes: int = 0


@dataclass(frozen=True)
class Parts:
    """Which images of a source are for training and which are held out.

    Attributes:
        labels: int64 [N], of all images of the source; -1 where no class is known.
        train, test: numbers of the images of each split, int64.
        classes: class names.
    """

    labels: torch.Tensor
    train: torch.Tensor
    test: torch.Tensor
    classes: tuple[str, ...]


def assemble(
    name: str, source: Source, parts: Parts, options: Options, remarks: Iterable[str] = (), *, mirrored: bool = True
) -> ImageDataset:
    """A data set of images from ``source``, in memory if it is small enough.

    Raises:
        UserError: the size of the images is not clear, or images cannot be read (all, or any with ``strict``).
    """
    view = _view(name, source, torch.cat([parts.train, parts.test]), options.image_size)
    reader = Reader(source, view, options.workers, options.strict)
    train, test = (StreamedSplit(reader, part, parts.labels[part]) for part in (parts.train, parts.test))
    small = (len(train) + len(test)) * view.channels * view.height * view.width <= MEMORY_BYTES
    known = tuple(remarks)
    splits = (train.in_memory(), test.in_memory()) if small else (train, test)
    if small:
        reader.close()
        known += problem_note(reader, "left out")
    return ImageDataset(
        name=name,
        train=splits[0],
        test=splits[1],
        classes=parts.classes,
        augmentation=usual(view.height, mirrored=mirrored),
        mirrored=mirrored,
        remarks=known,
    )


def without_split(name: str, labels: torch.Tensor, classes: tuple[str, ...]) -> Parts:
    """All images, of which a fixed share of each class is held out; see `held_out`."""
    return Parts(labels, *divided(name, labels), classes)


def unnamed_classes(name: str, count: int) -> tuple[str, ...]:
    """Names "0", "1", ... where the data name no classes.

    Raises:
        UserError: the number is not known.
    """
    if count < 2:
        raise UserError(f"{name} has no labels that tell the number of classes; give it as --classes")
    return tuple(map(str, range(count)))


def unlabelled(count: int) -> torch.Tensor:
    """Labels of ``count`` images of which nothing is known."""
    return torch.full((count,), UNLABELLED, dtype=torch.int64)


def _view(name: str, source: Source, used: torch.Tensor, image_size: int) -> View:
    """The wanted size, or that of the images themselves where a sample of them agrees; grey if all of those are."""
    sizes, grey = set(), True
    for index in used[torch.linspace(0, len(used) - 1, min(len(used), _LOOKED_AT)).long()].tolist():
        try:
            image = source.open(index)
        except Unreadable:
            continue
        sizes.add(image.size)
        grey = grey and is_grey(image)
    if not sizes and not image_size:
        raise UserError(f"{name}: none of {min(len(used), _LOOKED_AT)} images looked at can be read; replace the files")
    if len(sizes) > 1 and not image_size:
        shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
        raise UserError(f"the images of {name} have different sizes ({shown}, ...); give --image-size, such as 224")
    width, height = (image_size, image_size) if image_size else sizes.pop()
    return View(1 if grey else 3, height, width)

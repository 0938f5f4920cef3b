"""Assemble a data set from a source of images with labels: its own size, in memory or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from PIL import Image

from qkd_deploy.data.augment.presets import usual
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.images.decode import SIXTEEN_BITS, Unreadable, View, brightest, is_grey
from qkd_deploy.data.images.reader import Reader, Source
from qkd_deploy.data.images.stream import StreamedSplit, problem_note
from qkd_deploy.data.sets.held_out import divided
from qkd_deploy.data.split import UNLABELLED
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.classification import CLASSIFICATION
from qkd_deploy.tasks.task import Task

MEMORY_BYTES = 3 * 2**29
"""Data sets up to 1.5 GiB of pixels are decoded once and stay in memory."""

_NARROW = 2**14 - 1
"""Greys of 16 bits that do not exceed this may be those of a sensor with 14 bits or fewer."""

_MOST_CLASSES = 2**20
_LOOKED_AT = 64
"""Images, evenly spaced, from which a data set's own size and colours are told."""


@dataclass(frozen=True)
class Options:
    """The user's options for a data set that is read from image files; see `load_dataset`."""

    image_size: int = 0
    workers: int = 2
    strict: bool = False
    classes: int = 0
    interpolation: str = "bilinear"
    crop_pct: float = 0.0
    input_range: int = 0
    fit: str = ""


@dataclass(frozen=True)
class Parts:
    """The division of a source's images into training and held-out ones, with their labels.

    Attributes:
        labels: int64 [N], of all images of the source, -1 where no class is known; or targets [N, ...] of a task.
        train, test: numbers of the images of each split, int64.
        classes: class names.
    """

    labels: torch.Tensor
    train: torch.Tensor
    test: torch.Tensor
    classes: tuple[str, ...]


def assemble(
    name: str,
    source: Source,
    parts: Parts,
    options: Options,
    remarks: Iterable[str] = (),
    *,
    mirrored: bool = True,
) -> ImageDataset:
    """Assemble a data set of images from ``source``, each with one class, in memory if it is small enough.

    Args:
        name: of the data set.
        source: the images, encoded.
        parts: their labels, splits and class names.
        options: the user's.
        remarks: sentences about the files, for the user.
        mirrored: a mirrored image means the same.

    Raises:
        UserError: the size of the images is not clear, or images cannot be read (all, or any with ``strict``).
    """
    view = view_of(name, source, torch.cat([parts.train, parts.test]), options)
    dataset = in_view(name, source, parts, view, options, remarks)
    return replace(dataset, augmentation=usual(view.height, mirrored=mirrored), mirrored=mirrored)


def in_view(
    name: str,
    source: Source,
    parts: Parts,
    view: View,
    options: Options,
    remarks: Iterable[str] = (),
    task: Task = CLASSIFICATION,
) -> ImageDataset:
    """Assemble a data set of images that are brought to a view; it has no augmentation yet.

    Raises:
        UserError: images cannot be read (all, or any with ``strict``), or the labels are none of the task.
    """
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
        remarks=known,
        evaluation=view.named(),
        task=task,
    )


def without_split(name: str, labels: torch.Tensor, classes: tuple[str, ...]) -> Parts:
    """Hold out a fixed share of each class of all images; see `held_out`."""
    return Parts(labels, *divided(name, labels), classes)


def unnamed_classes(name: str, count: int) -> tuple[str, ...]:
    """Name classes "0", "1", ... where the data name none.

    Raises:
        UserError: the number is not known.
    """
    if count > _MOST_CLASSES:
        raise UserError(
            f"{name} would have {count} classes, more than {_MOST_CLASSES}; number them from 0 without gaps"
        )
    if count < 2:
        raise UserError(
            f"{name} has no labels that tell the number of classes; give it as --classes (classes in Python)"
        )
    return tuple(map(str, range(count)))


def unlabelled(count: int) -> torch.Tensor:
    """Make labels of ``count`` images whose classes are not known."""
    return torch.full((count,), UNLABELLED, dtype=torch.int64)


def view_of(
    name: str,
    source: Source,
    used: torch.Tensor,
    options: Options,
    *,
    fit: str = View.fit,
    wanted: tuple[int, int] | None = None,
) -> View:
    """Decide on the wanted size, or that of the images themselves where a sample agrees; grey if all of those are.

    Args:
        name: of the data set.
        source: the images, encoded.
        used: numbers of those that the data set has, int64.
        options: the user's.
        fit: how images of other proportions come to that size where the user does not say.
        wanted: height and width; by default the options' size for both, or the images' own.

    Raises:
        UserError: the size of the images is not clear, or the range of their greys is not.
    """
    looked_at = used[torch.linspace(0, len(used) - 1, min(len(used), _LOOKED_AT)).long()].tolist()
    sizes: set[tuple[int, int]] = set()
    grey, largest = True, 0
    for image in _readable(source, looked_at):
        sizes.add(image.size)
        grey, largest = grey and is_grey(image), max(largest, brightest(image))
    _require_input_range(name, largest, options.input_range)
    size = options.image_size
    wanted = (size, size) if size and wanted is None else wanted
    width, height = wanted[::-1] if wanted else _only_size(name, sizes, len(looked_at))
    levels = options.input_range or SIXTEEN_BITS
    fit = options.fit or fit
    crop_pct = options.crop_pct if fit == View.fit else 0.0
    return View(1 if grey else 3, height, width, options.interpolation, crop_pct, levels, fit)


def _require_input_range(name: str, largest: int, given: int) -> None:
    """Refuse 16-bit greys of which 8 bits would keep few: those of sensors with fewer bits, or beyond what was given.

    Raises:
        UserError: such images; says what to give.
    """
    if given and largest > given:
        raise UserError(
            f"{name} has greys up to {largest}, above --input-range {given} (input_range in Python); "
            f"give {_sensor(largest)}"
        )
    if largest and not given and largest <= _NARROW:
        raise UserError(
            f"the 16-bit greys of {name} reach only {largest}, of which 8 bits would keep {largest // 257 + 1} levels; "
            f"give --input-range {_sensor(largest)} (input_range in Python) for a sensor of {_bits(largest)} bits, or "
            f"{SIXTEEN_BITS} where the images are just dark"
        )


def _bits(largest: int) -> int:
    """Bits of the sensors that there are, 10, 12, 14 or 16, in which a value fits."""
    return next(bits for bits in (10, 12, 14, 16) if largest < 2**bits or bits == 16)


def _sensor(largest: int) -> int:
    return int(2 ** _bits(largest) - 1)


def _readable(source: Source, indices: list[int]) -> Iterator[Image.Image]:
    for index in indices:
        with suppress(Unreadable):
            yield source.open(index)


def _only_size(name: str, sizes: set[tuple[int, int]], looked_at: int) -> tuple[int, int]:
    if not sizes:
        raise UserError(f"{name}: none of {looked_at} images looked at can be read; replace the files")
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
        raise UserError(
            f"the images of {name} have different sizes ({shown}, ...); "
            "give --image-size, such as 224 (image_size in Python)"
        )
    return sizes.pop()

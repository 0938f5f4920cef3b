"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from the publisher's files, in the binary and in the Python layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from qkd_deploy.data.augment.crop_and_flip import CropAndFlip
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.cifar_layout import (
    IMAGE_SHAPE,
    PIXELS,
    Layout,
    read_binary,
    read_pickled,
    read_pickled_names,
)
from qkd_deploy.data.sets.download import Archive, cache_folder, fetch
from qkd_deploy.data.sets.files import not_as_published, read_lines
from qkd_deploy.data.split import Split
from qkd_deploy.errors import UserError

_PUBLISHER = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Cifar:
    """A member of the CIFAR family: its layouts in order of preference, class count and images in each file."""

    name: str
    classes: int
    layouts: tuple[Layout, ...]
    train_images: int
    test_images: int


def cifar10(data_dir: Path | None = None) -> ImageDataset:
    """Open CIFAR-10: 50,000 + 10,000 images uint8 [N, 3, 32, 32] in 10 classes; see `load_cifar`."""
    return load_cifar(CIFAR10, data_dir)


def cifar100(data_dir: Path | None = None) -> ImageDataset:
    """Open CIFAR-100 with its 100 fine classes: 50,000 + 10,000 images uint8 [N, 3, 32, 32]; see `load_cifar`."""
    return load_cifar(CIFAR100, data_dir)


def load_cifar(cifar: Cifar, data_dir: Path | None) -> ImageDataset:
    """Read a data set whose layout folder is ``data_dir`` or lies directly in it.

    Where ``data_dir`` has no such folder, the publisher's archive is unpacked there, and downloaded before if it is not
    there either. Without a ``data_dir``, this happens in the cache folder.

    Raises:
        UserError: there is no such folder, or a file is missing, of the wrong size, damaged or dangerous, or cannot be
            downloaded.
    """
    layout, folder = _locate(cifar, data_dir)
    for name in layout.files:
        if not (folder / name).is_file():
            raise not_as_published(folder, f"lacks {name}")
    classes = layout.read_names(folder / layout.names)
    if len(classes) != cifar.classes:
        raise not_as_published(folder / layout.names, f"holds {len(classes)} class names instead of {cifar.classes}")
    dataset = ImageDataset(
        name=cifar.name,
        train=_split(layout, [folder / name for name in layout.train], cifar.train_images, cifar.classes),
        test=_split(layout, [folder / name for name in layout.test], cifar.test_images, cifar.classes),
        classes=tuple(classes),
        augmentation=CropAndFlip(pad=4, flip=True),
    )
    return replace(dataset, original=dataset.fingerprint) if layout.is_original(folder) else dataset


def _locate(cifar: Cifar, data_dir: Path | None) -> tuple[Layout, Path]:
    """Find the first layout of which some file exists, with its folder; download one where there is none."""
    target = cache_folder() if data_dir is None else _existing(cifar, data_dir)
    for layout in cifar.layouts:
        for folder in (target / layout.folder, target):
            if any((folder / name).is_file() for name in layout.files):
                return layout, folder
    return _fetched(cifar, target)


def _existing(cifar: Cifar, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        folders = " or ".join(layout.folder for layout in cifar.layouts)
        raise UserError(
            f"there is no folder {data_dir}; give the one that holds {folders} as --data-dir (data_dir in Python)"
        )
    return data_dir


def _fetched(cifar: Cifar, target: Path) -> tuple[Layout, Path]:
    """Unpack the archive that is there, or download the one of the preferred layout."""
    there = [layout for layout in cifar.layouts if (target / layout.archive.name).exists()]
    layout = [*there, *cifar.layouts][0]
    try:
        return layout, fetch(layout.archive, target)
    except UserError as error:
        raise UserError(f"{target} holds no {cifar.name}; {error}") from error


def _split(layout: Layout, paths: list[Path], images_per_file: int, classes: int) -> Split:
    """Read the files of a split one after the other into one block of memory."""
    total = images_per_file * len(paths)
    images = np.empty((total, PIXELS), dtype=np.uint8)
    labels = np.empty(total, dtype=np.int64)
    for index, path in enumerate(paths):
        place = slice(index * images_per_file, (index + 1) * images_per_file)
        images[place], labels[place] = layout.read_part(path, images_per_file)
        if labels[place].max() >= classes:
            raise not_as_published(path, f"has a label above {classes - 1}")
    return Split(torch.from_numpy(images).view(total, *IMAGE_SHAPE), torch.from_numpy(labels))


def _numbered(pattern: str) -> Iterator[str]:
    return (pattern.format(number) for number in range(1, 6))


CIFAR10 = Cifar(
    name="cifar10",
    classes=10,
    layouts=(
        Layout(
            archive=Archive(
                _PUBLISHER, "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"
            ),
            train=tuple(_numbered("data_batch_{}.bin")),
            test=("test_batch.bin",),
            names="batches.meta.txt",
            read_part=read_binary(label_bytes=1),
            read_names=read_lines,
        ),
        Layout(
            archive=Archive(
                _PUBLISHER, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"
            ),
            train=tuple(_numbered("data_batch_{}")),
            test=("test_batch",),
            names="batches.meta",
            read_part=read_pickled("labels"),
            read_names=read_pickled_names("label_names"),
        ),
    ),
    train_images=10_000,
    test_images=10_000,
)

CIFAR100 = Cifar(
    name="cifar100",
    classes=100,
    layouts=(
        Layout(
            archive=Archive(
                _PUBLISHER, "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary"
            ),
            train=("train.bin",),
            test=("test.bin",),
            names="fine_label_names.txt",
            read_part=read_binary(label_bytes=2),
            read_names=read_lines,
            digests={
                "train.bin": "sha1:e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
                "test.bin": "sha1:8fb6623e830365ff53cf14adec797474f5478006",
            },
        ),
        Layout(
            archive=Archive(
                _PUBLISHER, "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"
            ),
            train=("train",),
            test=("test",),
            names="meta",
            read_part=read_pickled("fine_labels"),
            read_names=read_pickled_names("fine_label_names"),
            digests={
                "train": "md5:16019d7e3df5f24257cddd939b257f8d",
                "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
            },
        ),
    ),
    train_images=50_000,
    test_images=10_000,
)

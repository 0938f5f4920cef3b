"""Tiny-ImageNet (64x64, 200 classes) in the layout of its publisher, or some of its classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.assemble import Options, Parts, assemble
from qkd_deploy.data.sets.files import Files, image_files, not_as_published, read_lines
from qkd_deploy.errors import UserError

FOLDER = "tiny-imagenet-200"
_ANNOTATIONS = "val/val_annotations.txt"


def tiny_imagenet(data_dir: Path | None, options: Options) -> ImageDataset:
    """Read ``tiny-imagenet-200`` in ``data_dir``, or ``data_dir`` itself; its labelled ``val`` images are held out.

    Where only some of the training classes are there, both splits are limited to them, and the data set's name says so.

    Raises:
        UserError: there is no such folder, or a file or all images are missing or damaged.
    """
    root = _locate(data_dir)
    all_classes = read_lines(root / "wnids.txt")
    present, train = _train_images(root, all_classes)
    held_out = _held_out_images(root, present)
    border, end = len(train), len(train) + len(held_out)
    names, labels = zip(*train, *held_out, strict=True)
    parts = Parts(
        labels=torch.tensor(labels, dtype=torch.int64),
        train=torch.arange(border),
        test=torch.arange(border, end),
        classes=_class_names(root, present),
    )
    part = "" if present == all_classes else f" ({len(present)} of {len(all_classes)} classes)"
    return assemble(f"tiny-imagenet{part}", Files(root, names), parts, options)


def _locate(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise UserError(f"tiny-imagenet needs --data-dir: the folder that holds {FOLDER} from the publisher's archive")
    for root in (data_dir / FOLDER, data_dir):
        if (root / "wnids.txt").is_file():
            return root
    raise UserError(f"{data_dir} holds no {FOLDER} with its wnids.txt; unpack the publisher's archive there")


def _train_images(root: Path, wnids: list[str]) -> tuple[list[str], list[tuple[str, int]]]:
    """Find the classes that are there, and path and class number of each of their images."""
    present: list[str] = []
    images: list[tuple[str, int]] = []
    for wnid in dict.fromkeys(wnids):
        folder = root / "train" / wnid
        paths = list(image_files(folder)) if folder.is_dir() else []
        images += [(path.relative_to(root).as_posix(), len(present)) for path in paths]
        present += [wnid] if paths else []
    if len(present) < 2:
        raise not_as_published(root / "train", "has images of fewer than two classes")
    return present, images


def _held_out_images(root: Path, present: list[str]) -> list[tuple[str, int]]:
    """Read path and class number of each held-out image of the classes that are there."""
    numbers = {wnid: number for number, wnid in enumerate(present)}
    images = [(f"val/images/{name}", numbers[wnid]) for name, wnid in _annotations(root) if wnid in numbers]
    if not images:
        raise not_as_published(root / _ANNOTATIONS, "names no image of these classes")
    return images


def _annotations(root: Path) -> list[tuple[str, str]]:
    """Read name and class of each held-out image."""
    lines = [line.split("\t") for line in read_lines(root / _ANNOTATIONS)]
    if any(len(fields) < 2 or "/" in fields[0] for fields in lines):
        raise not_as_published(root / _ANNOTATIONS, "is damaged")
    return [(fields[0], fields[1]) for fields in lines]


def _class_names(root: Path, wnids: list[str]) -> tuple[str, ...]:
    """Take the first word for each class, with its identifier where two classes share it."""
    words = dict(line.partition("\t")[::2] for line in read_lines(root / "words.txt"))
    names = [words.get(wnid, wnid).partition(",")[0].strip() for wnid in wnids]
    counts = Counter(names)
    return tuple(f"{name} ({wnid})" if counts[name] > 1 else name for name, wnid in zip(names, wnids, strict=True))

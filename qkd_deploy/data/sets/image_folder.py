"""``imagefolder:PATH``: image files in folders, with one folder per class or without classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from qkd_deploy.data.assemble import Options, Parts, assemble, unlabelled, unnamed_classes, without_split
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.files import Files, image_files, is_image, is_visible
from qkd_deploy.errors import UserError

HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Found:
    """Image files of one folder.

    Attributes:
        by_class: files by the name of the class folder, and ``loose`` ones beside those folders.
        empty: class folders that hold no images.
    """

    by_class: dict[str, list[Path]]
    loose: list[Path]
    empty: list[str]

    @property
    def files(self) -> list[Path]:
        """All files, in a fixed order."""
        return [*self.loose, *(path for paths in self.by_class.values() for path in paths)]

    @property
    def is_labelled(self) -> bool:
        """Whether there are classes to tell apart: a single folder says nothing."""
        return len(self.by_class) > 1


def image_folder(path: Path, options: Options) -> ImageDataset:
    """Read a folder of images.

    It holds ``train`` and ``val`` (or ``valid``, ``validation``, ``test``), each with one folder per class or with
    images directly, which then are unlabelled; or class folders, or images, without such a division: then every fifth
    image of each class is held out (see `held_out`).

    Raises:
        UserError: there is no such folder, it holds no images, classes cannot be told, or as `assemble`.
    """
    name = f"imagefolder:{path.resolve().name}"
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give the one that holds the images after 'imagefolder:'")
    if not (path / "train").is_dir():
        return _undivided(name, path, _find(path), options)
    train = _find(path / "train")
    folder = next((folder for folder in HELD_OUT_FOLDERS if (path / folder).is_dir()), None)
    test = _find(path / folder) if folder is not None else None
    if test is None or not test.files:
        return _undivided(name, path, train, options)
    return _divided(name, path, train, test, options)


def _undivided(name: str, root: Path, found: Found, options: Options) -> ImageDataset:
    if not found.files:
        raise UserError(f"{root} holds no JPEG, PNG or WebP images; check the path after 'imagefolder:'")
    if not found.is_labelled:
        paths = found.files
        parts = without_split(name, unlabelled(len(paths)), unnamed_classes(name, options.classes))
        return assemble(name, _files(root, paths), parts, options)
    classes = tuple(found.by_class)
    paths, labels = _labelled(found, classes)
    return assemble(name, _files(root, paths), without_split(name, labels, classes), options, _remarks(found))


def _divided(name: str, root: Path, train: Found, test: Found, options: Options) -> ImageDataset:
    if train.is_labelled and not test.is_labelled and not test.by_class.keys() & train.by_class.keys():
        remark = "the held-out folder has no classes and is left out: a share of the training images is held out"
        dataset = _undivided(name, root, train, options)
        return replace(dataset, remarks=(remark, *dataset.remarks))
    classes = tuple(sorted({name for found in (train, test) if found.is_labelled for name in found.by_class}))
    remarks: list[str] = []
    paths: list[Path] = []
    labels: list[torch.Tensor] = []
    for found in (train, test):
        if classes and found.by_class.keys() <= set(classes) and found.by_class:
            own, own_labels = _labelled(found, classes)
            remarks += _remarks(found)
        else:
            own, own_labels = found.files, unlabelled(len(found.files))
        paths += own
        labels.append(own_labels)
    if train.is_labelled:
        remarks += [f"class {c} has no training images" for c in classes if c not in train.by_class]
    border, end = len(labels[0]), len(paths)
    if not border:
        raise UserError(f"{root / 'train'} holds no JPEG, PNG or WebP images; check the path after 'imagefolder:'")
    names = classes or unnamed_classes(name, options.classes)
    parts = Parts(torch.cat(labels), torch.arange(border), torch.arange(border, end), names)
    return assemble(name, _files(root, paths), parts, options, remarks)


def _labelled(found: Found, classes: tuple[str, ...]) -> tuple[list[Path], torch.Tensor]:
    """The files in class folders, and their labels."""
    paths = [path for paths in found.by_class.values() for path in paths]
    labels = [classes.index(name) for name, files in found.by_class.items() for _ in files]
    return paths, torch.tensor(labels, dtype=torch.int64)


def _remarks(found: Found) -> Iterable[str]:
    if found.empty:
        yield f"class folders without images are left out: {', '.join(found.empty)}"
    if found.loose:
        yield f"{len(found.loose)} images beside the class folders are left out, first {found.loose[0].name}"


def _find(folder: Path) -> Found:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; check its permissions") from error
    loose = [entry for entry in entries if is_image(entry.name) and not entry.is_dir()]
    folders = {entry.name: list(image_files(entry)) for entry in entries if is_visible(entry.name) and entry.is_dir()}
    by_class = {name: paths for name, paths in folders.items() if paths}
    return Found(by_class, loose, [name for name, paths in folders.items() if not paths])


def _files(root: Path, paths: list[Path]) -> Files:
    return Files(root, tuple(path.relative_to(root).as_posix() for path in paths))

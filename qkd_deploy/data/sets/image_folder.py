"""``imagefolder:PATH``: image files in folders, with one folder per class or without classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.assemble import Options, Parts, assemble, unlabelled, unnamed_classes, without_split
from qkd_deploy.data.sets.files import Files, image_files, is_image, is_visible
from qkd_deploy.errors import UserError, unreadable

HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Found:
    """The image files of one folder.

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
        """True where there are classes to tell apart: a single folder says nothing."""
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
    train, test = _find(path / "train"), _find_held_out(path)
    if not test.files:
        return _undivided(name, path, train, options)
    if train.is_labelled and not test.is_labelled and not test.by_class.keys() & train.by_class.keys():
        remark = "the held-out folder has no classes and is left out: a share of the training images is held out"
        dataset = _undivided(name, path, train, options)
        return replace(dataset, remarks=(remark, *dataset.remarks))
    return _divided(name, path, train, test, options)


def _undivided(name: str, root: Path, found: Found, options: Options) -> ImageDataset:
    """Hold out a share of the images of one folder."""
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
    """Take the division of the images into two folders."""
    _require_common_classes(root, train, test)
    classes = _classes_of(train, test)
    paths: list[Path] = []
    labels: list[torch.Tensor] = []
    remarks: list[str] = []
    for found in (train, test):
        own, own_labels, own_remarks = _files_with_labels(found, classes)
        paths += own
        labels.append(own_labels)
        remarks += own_remarks
    if train.is_labelled:
        remarks += [f"class {c} has no training images" for c in classes if c not in train.by_class]
    border, end = len(labels[0]), len(paths)
    if not border:
        raise UserError(f"{root / 'train'} holds no JPEG, PNG or WebP images; check the path after 'imagefolder:'")
    names = classes or unnamed_classes(name, options.classes)
    parts = Parts(torch.cat(labels), torch.arange(border), torch.arange(border, end), names)
    return assemble(name, _files(root, paths), parts, options, remarks)


def _require_common_classes(root: Path, train: Found, test: Found) -> None:
    """Refuse parts that cannot be about the same classes."""
    if test.is_labelled and train.is_labelled and not train.by_class.keys() & test.by_class.keys():
        first, other = next(iter(train.by_class)), next(iter(test.by_class))
        raise UserError(
            f"the class folders in {root} differ: those for training, such as {first!r}, and those held out, such as "
            f"{other!r}, have no name in common; give a class the same name in both"
        )


def _classes_of(train: Found, test: Found) -> tuple[str, ...]:
    """Collect the class folders of both parts, of those that have classes to tell apart."""
    names: set[str] = set()
    for found in (train, test):
        if found.is_labelled:
            names |= found.by_class.keys()
    return tuple(sorted(names))


def _files_with_labels(found: Found, classes: tuple[str, ...]) -> tuple[list[Path], torch.Tensor, Iterable[str]]:
    """List files, labels and remarks of one part; it is unlabelled where its folders are no classes."""
    if found.by_class and found.by_class.keys() <= set(classes):
        return *_labelled(found, classes), _remarks(found)
    return found.files, unlabelled(len(found.files)), ()


def _labelled(found: Found, classes: tuple[str, ...]) -> tuple[list[Path], torch.Tensor]:
    """List the files in class folders, with their labels."""
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
        raise unreadable(folder, error) from error
    found = Found({}, [], [])
    for entry in entries:
        if entry.is_dir() and is_visible(entry.name):
            _add_class(found, entry)
        elif is_image(entry.name) and not entry.is_dir():
            found.loose.append(entry)
    return found


def _add_class(found: Found, folder: Path) -> None:
    paths = list(image_files(folder))
    if paths:
        found.by_class[folder.name] = paths
    else:
        found.empty.append(folder.name)


def _find_held_out(path: Path) -> Found:
    """Find the images in the first of the folders that may hold the held-out ones."""
    for name in HELD_OUT_FOLDERS:
        if (path / name).is_dir():
            return _find(path / name)
    return Found({}, [], [])


def _files(root: Path, paths: list[Path]) -> Files:
    return Files(root, tuple(path.relative_to(root).as_posix() for path in paths))

"""``coco:PATH``: boxes in COCO JSON files, with the folders of their images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.assemble import Options
from qkd_deploy.data.sets.detection.assemble import Part, boxed
from qkd_deploy.data.sets.detection.boxes import Boxes, Row
from qkd_deploy.data.sets.detection.coco_json import CocoFile, is_coco, read_coco
from qkd_deploy.data.sets.detection.problems import Problems
from qkd_deploy.data.sets.files import leads_out
from qkd_deploy.data.sets.image_folder import HELD_OUT_FOLDERS
from qkd_deploy.errors import UserError

_ROBOFLOW = "_annotations.coco.json"
_LOOKED_FOR = 20
"""Images that are looked for to find out which folder they lie in."""


def coco(path: Path, options: Options) -> ImageDataset:
    """Read COCO JSON files.

    ``path`` is a folder with ``annotations/instances_train*.json`` and ``instances_val*.json`` beside the folders of
    the images; or with ``train/_annotations.coco.json`` and the like in ``valid`` or ``test``, beside the images; or
    with one JSON file. It may also be a JSON file itself. Of a single file, every fifth image is held out.

    Raises:
        UserError: files are missing, damaged or no COCO, or as `boxed`.
    """
    name = f"coco:{path.resolve().name}"
    problems = Problems(name, options.strict)
    root, files = _files(path)
    contents = [read_coco(file, problems) for file in files]
    classes = tuple(dict.fromkeys(label for content in contents for label in content.categories))
    parts = [_part(root, file, content, classes, problems) for file, content in zip(files, contents, strict=True)]
    return boxed(name, root, parts, classes, options, problems)


def _files(path: Path) -> tuple[Path, list[Path]]:
    """Find the root, and one JSON file, or those of training and held-out images."""
    if path.is_file():
        return _root_of(path), [path, *_twin(path)]
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}; give a COCO JSON file or its folder after 'coco:'")
    if (path / "train" / _ROBOFLOW).is_file():
        others = (path / folder / _ROBOFLOW for folder in HELD_OUT_FOLDERS)
        return path, [path / "train" / _ROBOFLOW, *[file for file in others if file.is_file()][:1]]
    there = [file for folder in (path / "annotations", path) for file in sorted(folder.glob("*.json"))]
    found = [file for file in there if file.name.startswith("instances")] or [*filter(is_coco, there)]
    train = [file for file in found if "train" in file.name] or (found if len(found) == 1 else [])
    if len(train) != 1:
        some = f"{len(found)} COCO JSON files, of which {len(train)} are for training"
        raise UserError(f"{path} holds {some}; name one of them, coco:PATH/FILE.json")
    twin = _twin(train[0]) or [file for file in found if "val" in file.name] or [f for f in found if "test" in f.name]
    return path, [train[0], *twin[:1]]


def _twin(file: Path) -> list[Path]:
    """Find the file of held-out images that is called as that of the training images."""
    if "train" not in file.name:
        return []
    named = (file.with_name(file.name.replace("train", other)) for other in HELD_OUT_FOLDERS)
    return [twin for twin in named if twin.is_file()][:1]


def _root_of(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _part(root: Path, file: Path, content: CocoFile, classes: tuple[str, ...], problems: Problems) -> Part:
    """Find the image files, and number the classes as the whole data set does."""
    folder = _folder(root, file, content)
    numbers = [classes.index(label) for label in content.categories]
    rows: list[Row] = [(image, numbers[label], *box) for image, label, *box in content.rows]  # type: ignore[misc]
    kept = np.array([not leads_out(name) for name in content.names], dtype=bool)
    for name in (name for name, there in zip(content.names, kept, strict=True) if not there):
        problems.add("images whose names lead out of their folder", name)
    whole = Part.of([(folder / name).as_posix() for name in content.names], Boxes.of(rows), content.declared)
    return whole.where(kept)


def _folder(root: Path, file: Path, content: CocoFile) -> PurePosixPath:
    """Find the folder, from the root, in which most of some images lie."""
    some = [name for name in content.names[:: max(1, len(content.names) // _LOOKED_FOR)] if not leads_out(name)]
    found = {folder: sum(os.path.isfile(root / folder / name) for name in some) for folder in _folders(root, file)}
    best = max(found, key=lambda folder: found[folder])
    if some and not found[best]:
        raise UserError(f"{file} names images such as {some[0]}, of which none lies near it; put them below {root}")
    return best


def _folders(root: Path, file: Path) -> Iterator[PurePosixPath]:
    """List folders that may hold the images: those of the file, and such as ``val2017`` for instances_val2017.json."""
    beside = PurePosixPath(os.path.relpath(file.parent, root))
    split = file.stem.rpartition("_")[2]
    for folder in dict.fromkeys((beside, PurePosixPath())):
        for below in ("", "images", split, f"images/{split}", split.rstrip("0123456789")):
            yield folder / below

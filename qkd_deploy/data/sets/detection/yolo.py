"""``yolo:PATH``: images with one text file of boxes each, as ultralytics' networks are trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.assemble import Options
from qkd_deploy.data.sets.detection.assemble import Part, boxed
from qkd_deploy.data.sets.detection.boxes import Boxes, Row
from qkd_deploy.data.sets.detection.problems import Problems
from qkd_deploy.data.sets.detection.yolo_labels import label_of, read_rows
from qkd_deploy.data.sets.detection.yolo_names import YoloFile, read_yolo
from qkd_deploy.data.sets.files import image_files, is_image, is_visible, read_lines
from qkd_deploy.data.sets.image_folder import HELD_OUT_FOLDERS
from qkd_deploy.errors import UserError

_NAMES = ("classes.txt", "obj.names", "_darknet.labels")
_NO_LABELS = {*_NAMES, "readme.txt", "readme.dataset.txt", "readme.roboflow.txt", "train.txt", "val.txt", "test.txt"}

_MOST_UNNAMED = 2**16


def yolo(path: Path, options: Options) -> ImageDataset:
    """Read images and their label files.

    ``path`` is a data.yaml, or a folder with one, or with ``images/train``, ``labels/train`` and the like for ``val``;
    or with ``train/images``, ``train/labels``; or with images and labels that are not divided, of which every fifth is
    held out. Images without a label file have no objects.

    Raises:
        UserError: files are missing or damaged, or as `boxed`.
    """
    name = f"yolo:{path.resolve().name}"
    file, root = _found(path)
    known = YoloFile() if file is None else read_yolo(file)
    problems = Problems(name, options.strict)
    splits = _named_splits(root, file, known) if file and known.splits.get("train") else _folders(root)
    classes = known.names or _classes(root)
    parts = [_part(root, images, problems) for images in splits]
    if not any(len(part.boxes) for part in parts):
        raise UserError(
            f"{name} has images, but no labels for them; put label files into a folder labels beside images"
        )
    most = max(int(part.boxes.label.max(initial=0)) for part in parts) + 1
    names = classes or tuple(map(str, range(max(min(most, _MOST_UNNAMED), options.classes))))
    return boxed(name, root, parts, names, options, problems, relative=True)


def _found(path: Path) -> tuple[Path | None, Path]:
    """Find the data.yaml, if there is one, and the folder that everything is below of."""
    if path.is_file():
        return path, path.parent
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}; give a data.yaml or its folder after 'yolo:'")
    files = sorted(file for kind in ("*.yaml", "*.yml") for file in path.glob(kind) if is_visible(file.name))
    named = [file for file in files if file.stem in ("data", "dataset")] or files
    if len(named) > 1:
        raise UserError(f"{path} holds several files such as {named[0].name}; name one, yolo:PATH/{named[0].name}")
    return (named[0] if named else None), path


def _named_splits(root: Path, file: Path, known: YoloFile) -> list[list[str]]:
    """List the images that a data.yaml names, by their names from the root."""
    held_out = next((known.splits[split] for split in HELD_OUT_FOLDERS if split in known.splits), ())
    base = root / known.path if known.path and (root / known.path).is_dir() else root
    used = [places for places in (known.splits["train"], held_out) if places]
    return [[image for place in places for image in _images_at(root, base, place, file)] for places in used]


def _images_at(root: Path, base: Path, place: str, file: Path) -> Iterator[str]:
    """List the images of a folder, or those that a text file lists."""
    # exports of Roboflow say "../train/images" and mean a folder beside the data.yaml
    candidates = (base / place, root / place.removeprefix("../"))
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise UserError(f"{file} names {place}, which is not there; correct the path")
    if found.is_dir():
        yield from (_from_root(root, image) for image in image_files(found))
    else:
        yield from (_from_root(root, found.parent / line) for line in read_lines(found) if is_image(Path(line).name))


def _folders(root: Path) -> list[list[str]]:
    """List the images of the folders for training and for held-out ones, or of all images where there are none."""
    for place in (root / "images", root):
        folders = sorted(entry for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []
        train = [folder for folder in folders if folder.name.startswith("train")]
        held_out = [folder for kind in HELD_OUT_FOLDERS for folder in folders if folder.name.startswith(kind)]
        if train:
            return [[_from_root(root, image) for image in image_files(path)] for path in (*train[:1], *held_out[:1])]
    whole = root / "images" if (root / "images").is_dir() else root
    return [[_from_root(root, image) for image in image_files(whole)]]


def _from_root(root: Path, path: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _classes(root: Path) -> tuple[str, ...]:
    """Read class names from a text file; none where there is none."""
    file = next(
        (root / folder / name for folder in ("", "labels") for name in _NAMES if (root / folder / name).is_file()), None
    )
    names = [] if file is None else read_lines(file)
    if len(set(names)) < len(names):
        raise UserError(f"{file} gives two classes the same name; name them apart")
    return tuple(names)


def _part(root: Path, images: Sequence[str], problems: Problems) -> Part:
    """Read the labels of some images, and find label files of images that are not there."""
    rows: list[Row] = []
    labels = [label_of(image) for image in images]
    for number, label in enumerate(labels):
        found = read_rows(root / label, number, label, problems)
        if found is None:
            problems.note("images have no label file and count as without objects", images[number])
        else:
            rows.extend(found)
    for folder in sorted({label.rpartition("/")[0] for label in labels}):
        files = {entry.name for entry in (root / folder).glob("*.txt")} - _NO_LABELS
        for name in sorted(files - {label.rpartition("/")[2] for label in labels}):
            problems.add("label files without an image", f"{folder}/{name}")
    return Part.of(images, Boxes.of(rows))

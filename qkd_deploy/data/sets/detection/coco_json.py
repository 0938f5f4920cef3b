"""Read the images, boxes and classes of one COCO JSON file."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkd_deploy.data.sets.detection.boxes import Row
from qkd_deploy.data.sets.detection.problems import Problems
from qkd_deploy.errors import UserError, unreadable

MOST_BYTES = 2**31
_KEYS = ("images", "annotations", "categories")
_BULKY = ("segmentation", "keypoints", "caption")


@dataclass(frozen=True)
class CocoFile:
    """What a COCO JSON file says.

    Attributes:
        names: file names of the images, as they stand there.
        declared: their widths and heights, 0 where there are none.
        rows: the boxes; classes are places in ``categories``, corners are in pixels.
        categories: names of the classes, in the order of their ids.
    """

    names: tuple[str, ...]
    declared: tuple[tuple[int, int], ...]
    rows: list[Row]
    categories: tuple[str, ...]


def read_coco(path: Path, problems: Problems) -> CocoFile:
    """Read a file; images, boxes and classes that are none are left out.

    Raises:
        UserError: it cannot be read, is too large, no JSON, or no COCO JSON; or a problem, where problems are errors.
    """
    content = _content(path)
    categories = _categories(path, content["categories"])
    images = _images(content["images"], problems)
    numbers = {key: number for number, key in enumerate(images)}
    labels = {key: number for number, key in enumerate(categories)}
    rows = list(_rows(content["annotations"], numbers, labels, problems))
    names = tuple(name for name, _ in images.values())
    return CocoFile(names, tuple(size for _, size in images.values()), rows, tuple(categories.values()))


def is_coco(path: Path) -> bool:
    """Tell COCO files from other JSON files by words in their beginning or end: large ones are not parsed for it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            ends = [file.read(2**16) for place in (0, max(0, size - 2**16)) if file.seek(place) >= 0]
    except OSError:
        return False
    return any(f'"{key}"'.encode() in part for part in ends for key in _KEYS)


def _content(path: Path) -> dict[str, list[Any]]:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is no regular file; name a COCO JSON file")
        if found.st_size > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES >> 30} GiB; divide it")
        with path.open("rb") as file:
            content = json.load(file, object_hook=_lean)
    except OSError as error:
        raise unreadable(path, error) from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep; name a COCO JSON file") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of too many digits
        raise UserError(f"{path} is no JSON ({str(error).partition(chr(10))[0]}); name a COCO JSON file") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _KEYS):
        raise UserError(f"{path} is no COCO JSON with lists of {', '.join(_KEYS)}; name another file")
    return content


def _lean(record: dict[str, Any]) -> dict[str, Any]:
    """Forget at once what fills most of large files: outlines, which no box needs."""
    for key in _BULKY:
        record.pop(key, None)
    return record


def _categories(path: Path, records: list[Any]) -> dict[Any, str]:
    """Read class names by id, in the order of ids."""
    found: dict[Any, str] = {}
    for record in records:
        key, name = _entry(record, "id"), _entry(record, "name")
        if not _is_id(key) or not isinstance(name, str):
            raise UserError(f"{path} has a category without id or name; name all its classes")
        if key in found or name in found.values():
            raise UserError(f"{path} has two categories of the id {key!r} or the name {name!r}; number them anew")
        found[key] = name
    if not found:
        raise UserError(f"{path} has no categories; name its classes there")
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _images(records: list[Any], problems: Problems) -> dict[Any, tuple[str, tuple[int, int]]]:
    """Read file name and size of images by id."""
    found: dict[Any, tuple[str, tuple[int, int]]] = {}
    for record in records:
        key, name = _entry(record, "id"), _entry(record, "file_name")
        if not _is_id(key) or not isinstance(name, str) or not name:
            problems.add("images without id or file name", f"id {key!r}")
        elif key in found:
            problems.add("images with the id of another one", name)
        else:
            found[key] = name, (_length(record.get("width")), _length(record.get("height")))
    return found


def _rows(records: list[Any], images: dict[Any, int], labels: dict[Any, int], problems: Problems) -> Iterable[Row]:
    for record in records:
        key = _entry(record, "image_id")
        image = images.get(key) if _is_id(key) else None
        if image is None:
            problems.add("annotations of images that are not there", f"image {key!r}")
            continue
        if "bbox" not in record:
            problems.add("annotations without a box", f"image {key!r}")
            continue
        category = record.get("category_id")
        label = labels.get(category) if _is_id(category) else None
        if label is None:
            problems.add("boxes of unknown classes", f"category {category!r}")
            continue
        box = _box(record["bbox"])
        if box is None:
            problems.add("boxes that are not four numbers", f"image {key!r}")
            continue
        left, top, width, height = box
        yield image, label, left, top, left + width, top + height, bool(record.get("iscrowd"))


def _box(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 4 or not all(type(number) in (int, float) for number in value):
        return None
    try:
        return tuple(map(float, value))
    except OverflowError:  # a whole number of hundreds of digits
        return (math.inf,) * 4


def _entry(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, dict) else None


def _is_id(value: Any) -> bool:
    """True for what the format allows, and for the texts that some tools write."""
    return type(value) in (int, str)


def _length(value: Any) -> int:
    return value if type(value) is int and 0 < value < 2**31 else 0

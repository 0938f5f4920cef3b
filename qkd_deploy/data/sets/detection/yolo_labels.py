"""Read the label files of YOLO: one row for each object, in shares of the image's width and height."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from qkd_deploy.data.sets.detection.boxes import Row
from qkd_deploy.data.sets.detection.problems import Problems

_MOST_BYTES = 2**22
_BOX, _SMALLEST_OUTLINE = 5, 7
"""Columns of a box, and of an outline of three corners."""


def label_of(image: str) -> str:
    """Name the label file of an image: in ``labels`` in the place of the last folder ``images``, or beside it."""
    folder, _, name = image.rpartition("/")
    stem = name.rpartition(".")[0] or name
    parts = folder.split("/") if folder else []
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return "/".join([*parts, f"{stem}.txt"])


def read_rows(path: Path, image: int, name: str, problems: Problems) -> Iterator[Row] | None:
    """Read the rows of one label file, whose classes are as they stand there; None where there is no such file.

    Args:
        path: of the file.
        image: number of its image.
        name: of the file, for the user.
        problems: take notice of rows that are left out.

    Raises:
        UserError: a row is left out, and problems are errors.
    """
    try:
        if not os.path.lexists(path):
            return None
        if not path.is_file():  # a named pipe would be waited for
            problems.add("label files that are no regular files", name)
            return iter(())
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        problems.add("label files that cannot be read", f"{name} ({error.strerror})")
        return iter(())
    if len(content) > _MOST_BYTES:
        problems.add(f"label files of more than {_MOST_BYTES >> 20} MiB", name)
        return iter(())
    return _rows(content.decode("utf-8", errors="replace"), image, name, problems)


def _rows(text: str, image: int, name: str, problems: Problems) -> Iterator[Row]:
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        try:
            label, *places = map(float, words)
        except ValueError:
            problems.add("rows that are not made of numbers", name)
            continue
        if len(words) != _BOX and (len(words) < _SMALLEST_OUTLINE or len(words) % 2 == 0):
            problems.add("rows that are no box of 5 columns and no outline", name)
        elif label != int(label) if abs(label) < 2**31 else True:
            problems.add("rows whose class is no whole number", name)
        else:
            corners = _corners(places) if len(words) == _BOX else _around(places)
            yield (image, int(label), *corners, False)


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _around(outline: Sequence[float]) -> tuple[float, float, float, float]:
    """Find the box around an outline x, y, x, y, ..."""
    across, down = outline[0::2], outline[1::2]
    if any(place != place for place in outline):  # min and max would hide what is no number
        return (float("nan"),) * 4
    return min(across), min(down), max(across), max(down)

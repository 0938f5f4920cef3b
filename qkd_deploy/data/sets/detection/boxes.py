"""The boxes that the labels of a data set name, all in a few arrays, and which of them can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from qkd_deploy.data.images.placement import Integers
from qkd_deploy.data.sets.detection.problems import Problems

Floats = npt.NDArray[np.float64]
Row = tuple[int, int, float, float, float, float, bool]
"""Number of the image, class, corners x1, y1, x2, y2, and whether it is a crowd."""
_ROUNDING = 1.0
"""Pixels by which boxes lie beyond their image because their corners were rounded."""


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images, one beside the other.

    Attributes:
        image: numbers of their images, int64 [B].
        label: class numbers, int64 [B].
        corners: x1, y1, x2, y2, float64 [B, 4], in pixels of the file or in shares of its width and height.
        crowd: bool [B].
    """

    image: Integers
    label: Integers
    corners: Floats
    crowd: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Boxes:
        """Put rows into arrays."""
        numbers = np.fromiter(chain.from_iterable(rows), np.float64, 7 * len(rows)).reshape(-1, 7)
        image, label = numbers[:, 0].astype(np.int64), numbers[:, 1].astype(np.int64)
        return cls(image, label, np.ascontiguousarray(numbers[:, 2:6]), numbers[:, 6] != 0)

    def __len__(self) -> int:
        return len(self.image)

    def of_images(self, kept: npt.NDArray[np.bool_]) -> Boxes:
        """Keep the boxes of some images alone, bool [images], which are numbered anew."""
        numbers = np.cumsum(kept) - 1
        return replace(self, image=numbers[self.image]).where(kept[self.image])

    def where(self, kept: npt.NDArray[np.bool_]) -> Boxes:
        """Keep some boxes alone."""
        return Boxes(self.image[kept], self.label[kept], self.corners[kept], self.crowd[kept])

    def scaled(self, sizes: Integers) -> Boxes:
        """Turn shares into pixels of images with widths and heights ``sizes`` [images, 2]."""
        return replace(self, corners=self.corners * np.tile(sizes[self.image], 2))


def usable(boxes: Boxes, sizes: Integers, names: Sequence[str], classes: int, problems: Problems) -> Boxes:
    """Leave out boxes that are none, and cut others at the border of their image.

    Args:
        boxes: in pixels.
        sizes: widths and heights of the images, [images, 2].
        names: of the images.
        classes: their number.
        problems: takes notice of boxes that are left out, or cut by more than rounding explains.

    Raises:
        UserError: a box is left out, and problems are errors.
    """

    def without(wrong: Any, what: str) -> Boxes:
        if wrong.any():
            problems.add(what, names[int(boxes.image[wrong][0])], int(wrong.sum()))
        return boxes.where(~wrong)

    boxes = without((boxes.label < 0) | (boxes.label >= classes), "boxes of unknown classes")
    boxes = without(~np.isfinite(boxes.corners).all(axis=1), "boxes with numbers that are not finite")
    boxes = without((boxes.corners[:, 2:] <= boxes.corners[:, :2]).any(axis=1), "boxes without width or height")
    limits = np.tile(sizes[boxes.image], 2).astype(np.float64)
    inside = np.clip(boxes.corners, 0, limits)
    beyond = (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    cut = (np.abs(inside - boxes.corners) > _ROUNDING).any(axis=1) & ~beyond
    if cut.any():
        problems.note("boxes reach beyond their image and end there", names[int(boxes.image[cut][0])], int(cut.sum()))
    boxes = replace(boxes, corners=inside)
    boxes = without(beyond, "boxes outside of their image")
    return without(_repeated(boxes), "boxes that stand there twice")


def _repeated(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Mark boxes that are equal to an earlier one."""
    rows = np.column_stack([boxes.image, boxes.label, boxes.corners, boxes.crowd])
    order = np.lexsort(rows.T[::-1])  # stable: of equal rows the first one stays first
    marked = np.zeros(len(rows), dtype=bool)
    marked[order[1:]] = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    return marked

"""Turn boxes into targets: rows of a tensor, in pixels of the network's image."""

from __future__ import annotations

import numpy as np
import torch

from qkd_deploy.data.images.decode import View
from qkd_deploy.data.images.placement import Integers, placements
from qkd_deploy.data.sets.detection.boxes import Boxes
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.detection.targets import BOX, CLASS, COLUMNS, CROWD, PADDING

_MOST_VALUES = 2**30


def targets_of(boxes: Boxes, sizes: Integers, view: View, name: str) -> torch.Tensor:
    """Make targets float32 [N, M, 6] of images in a view; boxes that lose their area by rounding are left out.

    Args:
        boxes: in pixels of the files.
        sizes: widths and heights of the files, [N, 2].
        view: letterboxes or stretches whole images.
        name: of the data set, for messages.

    Raises:
        UserError: one image has so many boxes that the targets do not fit into memory.
    """
    rows = _rows(boxes, sizes, view)
    kept = (rows[:, 3:5] > rows[:, 1:3]).all(axis=1)
    rows, image = rows[kept], boxes.image[kept]
    counts = np.bincount(image, minlength=len(sizes))
    most = int(counts.max(initial=1))
    if most * len(sizes) * COLUMNS > _MOST_VALUES:
        raise UserError(
            f"{name} has an image with {most} boxes, and {len(sizes)} images: room for as many boxes in each does not "
            "fit into memory; leave that image out"
        )
    targets = np.zeros((len(sizes), max(most, 1), COLUMNS), dtype=np.float32)
    targets[:, :, CLASS] = PADDING
    order = np.argsort(image, kind="stable")
    firsts = np.cumsum(counts) - counts
    targets[image[order], np.arange(len(order)) - firsts[image[order]]] = rows[order]
    return torch.from_numpy(targets)


def _rows(boxes: Boxes, sizes: Integers, view: View) -> np.ndarray:
    """Compute one row float32 [6] for each box, as the image is resized and placed."""
    places = placements(sizes, (view.width, view.height), view.fit)
    own, place = sizes[boxes.image].astype(np.float64), places[boxes.image]
    rows = np.zeros((len(boxes), COLUMNS), dtype=np.float32)
    rows[:, CLASS], rows[:, CROWD] = boxes.label, boxes.crowd
    rows[:, BOX] = boxes.corners * np.tile(place[:, 2:] / own, 2) + np.tile(place[:, :2], 2)
    return rows

"""The mean average precision of detections, as COCO defines it and pycocotools computes it."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from qkd_deploy.tasks.detection.decode import detections_of
from qkd_deploy.tasks.detection.targets import BOX, CLASS, CROWD
from qkd_deploy.tasks.task import Score, uncertainty_of_mean

MEAN, AT_HALF = "mAP50-95", "mAP50"


class MeanPrecision(Score):
    """Gathers detections and boxes of all images, and computes their mean average precision at the end."""

    def __init__(self) -> None:
        self._found: list[np.ndarray] = []
        self._wanted: list[np.ndarray] = []

    def add(self, answers: Any, targets: Tensor) -> None:
        """Judge one batch; see ``Score``."""
        self.add_detections(detections_of(answers), targets)

    def add_detections(self, found: Sequence[Tensor], targets: Tensor) -> None:
        """Judge detections [D, 6] of a batch (class, x1, y1, x2, y2, score) by targets [N, M, 6]."""
        for detections, boxes in zip(found, targets.cpu(), strict=True):
            self._found.append(detections.double().numpy())
            self._wanted.append(boxes[boxes[:, CLASS] >= 0].double().numpy())

    def join(self, others: Sequence[Score]) -> None:
        """Take over what other processes have judged."""
        for other in others:
            assert isinstance(other, MeanPrecision)
            self._found += other._found
            self._wanted += other._wanted

    def figures(self) -> dict[str, float]:
        """Give the precision in percent: the mean over overlaps of 0.5, 0.55, ..., 0.95, and that at 0.5.

        Both are means over the classes that occur among the boxes; 0 where there is none.
        """
        if not any((boxes[:, CROWD] == 0).any() for boxes in self._wanted):
            return {MEAN: 0.0, AT_HALF: 0.0}
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # pycocotools reports as it goes
            figures = self._evaluate()
        return {MEAN: _percent(figures[0]), AT_HALF: _percent(figures[1])}

    def uncertainty(self) -> float:
        """Say by how many points chance moves the means, from the number of objects of each class."""
        counts = Counter(int(row[CLASS]) for boxes in self._wanted for row in boxes if not row[CROWD])
        return uncertainty_of_mean(counts.values())

    def _evaluate(self) -> Any:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        wanted = [_entry(image, row) for image, rows in enumerate(self._wanted) for row in rows]
        found = [_entry(image, row) for image, rows in enumerate(self._found) for row in rows]
        for number, entry in enumerate(wanted, 1):
            entry |= {"id": number, "iscrowd": int(entry.pop("last"))}
        for number, entry in enumerate(found, 1):
            entry |= {"id": number, "score": entry.pop("last")}
        categories = sorted({entry["category_id"] for entry in wanted})
        evaluation = COCOeval(_index(COCO(), wanted, categories, len(self._wanted)), iouType="bbox")
        evaluation.cocoDt = _index(COCO(), found, categories, len(self._wanted))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats


def _percent(share: float) -> float:
    """Give the percentage without what sums of many shares leave behind the tenth place, so that all right is 100."""
    return round(100.0 * float(share), 10)


def _entry(image: int, row: np.ndarray) -> dict[str, Any]:
    """Write a box in COCO's form; images and classes are numbered from 1."""
    x1, y1, x2, y2 = (float(value) for value in row[BOX])
    box = [x1, y1, x2 - x1, y2 - y1]
    entry = {"image_id": image + 1, "category_id": int(row[CLASS]) + 1, "bbox": box, "area": box[2] * box[3]}
    return entry | {"last": float(row[CROWD])}


def _index(coco: Any, entries: list[dict[str, Any]], categories: list[int], images: int) -> Any:
    """Fill pycocotools' own form from memory."""
    coco.dataset = {
        "images": [{"id": number + 1} for number in range(images)],
        "annotations": entries,
        "categories": [{"id": number} for number in categories],
    }
    coco.createIndex()
    return coco

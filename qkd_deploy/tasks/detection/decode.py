"""Detections of raw maps: the most certain boxes, each object once.

Equal maps give equal detections whatever else is in the batch: all steps are element by element, in a fixed order, or
comparisons, and among equal scores the place that comes first wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qkd_deploy.tasks.detection.levels import Places, boxes_around, places_of
from qkd_deploy.tasks.detection.overlap import iou
from qkd_deploy.tasks.detection.targets import COLUMNS

CANDIDATES = 400
"""Boxes of an image that compete."""
DETECTIONS = 100
"""Boxes of an image that are kept at most, as COCO counts."""
OVERLAP = 0.6
"""Of two boxes of a class that overlap more, the less certain one is dropped."""
LEAST_SCORE = 0.001
"""Boxes below are not reported."""


def detections_of(answers: Sequence[Tensor], least_score: float = LEAST_SCORE) -> list[Tensor]:
    """Turn raw maps of a batch into detections.

    Args:
        answers: ``(scores, boxes, ...)``, see `places_of`.
        least_score: below it, boxes are dropped.

    Returns:
        for each image float32 [D, 6] on the CPU: class, x1, y1, x2, y2, score; the most certain first.
    """
    places = places_of([item.detach().float().cpu() for item in answers])
    logits, classes, boxes = _candidates(places)
    scores = logits.sigmoid()
    kept = without_doubles(boxes, classes) & (scores >= least_score)
    rows = torch.cat([classes[..., None].float(), boxes, scores[..., None]], dim=2)
    return [image[keep][:DETECTIONS] for image, keep in zip(rows, kept, strict=True)]


def _candidates(places: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the largest logits: [N, K] in falling order, their classes [N, K] and boxes [N, K, 4]."""
    kinds = places.scores.shape[2]
    logits, order = places.scores.flatten(1).sort(dim=1, descending=True, stable=True)
    logits, order = logits[:, :CANDIDATES].contiguous(), order[:, :CANDIDATES]
    place = order // kinds
    chosen = places.distances.gather(1, place[..., None, None].expand(-1, -1, *places.distances.shape[2:]))
    boxes = boxes_around(places.centres[place], places.strides[place], _expected_in_order(chosen))
    return logits, order % kinds, boxes


def _expected_in_order(logits: Tensor) -> Tensor:
    """Compute ``expected_distances`` with sums in the order of the bins, alike for every batch."""
    bins = logits.movedim(-1, 0).contiguous()
    powers = (bins - bins.amax(dim=0)).exp()
    total, moment = torch.zeros_like(powers[0]), torch.zeros_like(powers[0])
    for index, power in enumerate(powers):
        total, moment = total + power, moment + power * index
    return moment / total


def without_doubles(boxes: Tensor, classes: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Find the boxes that no better box of the same class overlaps: greedy suppression, for all images at once.

    A box stays where no box that stays in front of it overlaps it. Repeating that rule from any start settles the boxes
    one after the other, at latest after as many rounds as there are boxes, and mostly after a few.

    Args:
        boxes: [N, K, 4], the best first.
        classes: [N, K].
        overlap: boxes that overlap more are one object.

    Returns:
        bool [N, K].
    """
    doubles = (iou(boxes[:, :, None], boxes[:, None]) > overlap) & (classes[:, :, None] == classes[:, None])
    better = doubles.triu(diagonal=1)  # [.., i, j]: the better box i excludes j
    kept = torch.ones_like(classes, dtype=torch.bool)
    while True:
        settled = ~(better & kept[..., None]).any(dim=1)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def as_targets(found: Sequence[Tensor]) -> Tensor:
    """Write detections as targets [N, M, 6] without crowds, padded to the largest number of them."""
    targets = torch.zeros(len(found), max(map(len, found), default=0), COLUMNS)
    targets[..., 0] = -1
    for image, rows in zip(targets, found, strict=True):
        image[: len(rows), :5] = rows[:, :5]
    return targets

"""Which place of a detector learns which box: task-aligned assignment (Feng et al., 2021), a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qkd_deploy.tasks.detection.levels import Places, boxes_around, expected_distances
from qkd_deploy.tasks.detection.overlap import area, intersection, iou
from qkd_deploy.tasks.detection.targets import BOX, CLASS, COLUMNS, CROWD, PADDING

PLACES_OF_A_BOX = 10
"""At most so many places learn one box."""
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""How a place's score and its box's overlap count towards its alignment with an object."""
_EPSILON = 1e-20
"""Far below the alignment of an untrained network, which is overlap to the sixth power."""
_IN_A_CROWD = 0.5
"""Share of a place's box that lies in a crowd, from which on its score is not judged."""


@dataclass(frozen=True)
class Assignment:
    """What the places of a batch should answer.

    Attributes:
        quality: in 0..1, wanted scores [N, P, classes]: of the one class of a place that learns a box, else 0.
        share: in 0..1, the weight of the place's box among those that learn it [N, P]; 1 for the best, 0 without a box.
        boxes: wanted corners [N, P, 4], of places that learn one.
        learns: places that learn a box, bool [N, P].
        judged: places whose scores count, bool [N, P]; others see a crowd.
    """

    quality: Tensor
    share: Tensor
    boxes: Tensor
    learns: Tensor
    judged: Tensor


@torch.no_grad()
def assign(places: Places, targets: Tensor) -> Assignment:
    """Assign boxes to places that lie in them and come closest to them now.

    A place's alignment with a box is ``score^0.5 * iou^6``; the best ten places of a box learn it, a place that is
    among the best of several boxes learns the one that it overlaps most. The wanted score of the best aligned place is
    the mean of 1 and the best overlap, and that of the others is smaller in proportion. It is at least a half, and how
    much a place learns of its box does not depend on the overlap so far, so that small objects, which an untrained
    network hardly overlaps, are learned from the start: with the overlap alone, as in the paper, they are left to the
    end.

    Args:
        places: of a batch.
        targets: boxes [N, M, 6].
    """
    if not targets.shape[1]:
        targets = torch.full((len(targets), 1, COLUMNS), PADDING, device=targets.device)
    scores, distances = places.scores.detach().sigmoid(), places.distances.detach()
    predicted = boxes_around(places.centres, places.strides, expected_distances(distances))
    boxes, crowd = targets[..., BOX], targets[..., CROWD] > 0
    objects = (targets[..., CLASS] >= 0) & ~crowd
    classes = targets[..., CLASS].long().clamp(min=0)
    overlaps = iou(boxes[:, :, None], predicted[:, None])
    alignment = _alignment(scores, classes, overlaps)
    allowed = _inside(boxes, places) & objects[..., None]
    owner, learns = _owners(alignment, overlaps, allowed)
    share, best = _shares(alignment, overlaps, owner, learns)
    wanted = torch.zeros_like(scores)
    wanted.scatter_(2, classes.gather(1, owner)[..., None], (share * (1 + best) / 2)[..., None])
    chosen = boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    return Assignment(wanted, share, chosen, learns, learns | ~_in_crowds(predicted, boxes, crowd))


def _alignment(scores: Tensor, classes: Tensor, overlaps: Tensor) -> Tensor:
    """Compute the alignment [N, M, P] of places with boxes."""
    of_class = scores.transpose(1, 2).gather(1, classes[..., None].expand(-1, -1, scores.shape[1]))
    return of_class**SCORE_POWER * overlaps**OVERLAP_POWER


def _inside(boxes: Tensor, places: Places) -> Tensor:
    """Find the places [N, M, P] that lie in a box; a box too small for any has the finest level's nearest ones."""
    middle, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    finest = places.strides.min()
    least = torch.where(places.strides == finest, finest / 2, 0.0)
    room = torch.maximum(half[:, :, None], least[:, None])
    return ((places.centres - middle[:, :, None]).abs() <= room).all(dim=-1)


def _owners(alignment: Tensor, overlaps: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the box of every place.

    Returns:
        the box's row [N, P] (0 where there is none), and which places have one, bool [N, P].
    """
    masked = torch.where(allowed, alignment, -1.0)
    count = min(PLACES_OF_A_BOX, masked.shape[2])
    best = torch.zeros_like(allowed).scatter_(2, masked.topk(count, dim=2).indices, True) & allowed
    owner = torch.where(best, overlaps, -1.0).argmax(dim=1)
    return owner, best.any(dim=1)


def _shares(alignment: Tensor, overlaps: Tensor, owner: Tensor, learns: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the places that learn the same box.

    Returns:
        alignments [N, P] over the best one, and the best overlap [N, P]; both 0 where a place learns no box.
    """
    mine = torch.zeros_like(alignment, dtype=torch.bool).scatter_(1, owner[:, None], learns[:, None])
    aligned, overlapped = torch.where(mine, alignment, 0.0), torch.where(mine, overlaps, 0.0)
    share = (aligned + _EPSILON) / (aligned.amax(dim=2, keepdim=True) + _EPSILON)
    best = overlapped.amax(dim=2, keepdim=True).expand_as(mine)
    return torch.where(mine, share, 0.0).amax(dim=1), torch.where(mine, best, 0.0).amax(dim=1)


def _in_crowds(predicted: Tensor, boxes: Tensor, crowd: Tensor) -> Tensor:
    """Find the places [N, P] whose box lies mostly in a crowd."""
    common = intersection(boxes[:, :, None], predicted[:, None]) / area(predicted).clamp(min=1.0)[:, None]
    return ((common > _IN_A_CROWD) & crowd[..., None]).any(dim=1)

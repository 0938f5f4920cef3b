"""Raw maps of a detector as one list of places: their scores, their distances, and where they are in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COARSEST_STRIDE = 32
"""Stride in pixels of the last pair of maps; each pair before has half the stride of the one behind it."""
SIDES = 4


@dataclass(frozen=True)
class Places:
    """A detector's raw answers, all levels behind one another, row by row.

    Attributes:
        scores: logits [N, P, classes].
        distances: logits [N, P, 4, bins] of the distances to the left, top, right and bottom side of a box, in strides.
        centres: x and y in pixels of the image, float32 [P, 2].
        strides: in pixels, float32 [P].
    """

    scores: Tensor
    distances: Tensor
    centres: Tensor
    strides: Tensor

    @property
    def reach(self) -> int:
        """The largest distance, in strides."""
        return self.distances.shape[3] - 1


def places_of(answers: Sequence[Tensor]) -> Places:
    """Lay a detector's maps ``(scores, boxes, scores, boxes, ...)`` flat.

    Args:
        answers: logits [N, classes, h, w] and [N, 4 * bins, h, w] of each level, the finest first; the last pair has
            the stride `COARSEST_STRIDE`.
    """
    scores, boxes = answers[0::2], answers[1::2]
    strides = [COARSEST_STRIDE // 2 ** (len(scores) - 1 - level) for level in range(len(scores))]
    centres = [_centres(level, stride) for level, stride in zip(scores, strides, strict=True)]
    flat_scores = torch.cat([level.flatten(2).transpose(1, 2) for level in scores], dim=1)
    flat_boxes = torch.cat([level.flatten(2).transpose(1, 2) for level in boxes], dim=1)
    sizes = [torch.full_like(part[:, 0], stride) for part, stride in zip(centres, strides, strict=True)]
    return Places(
        flat_scores,
        flat_boxes.reshape(*flat_boxes.shape[:2], SIDES, -1),
        torch.cat(centres),
        torch.cat(sizes),
    )


def _centres(level: Tensor, stride: int) -> Tensor:
    height, width = level.shape[2:]
    y = (torch.arange(height, device=level.device) + 0.5) * stride
    x = (torch.arange(width, device=level.device) + 0.5) * stride
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)


def expected_distances(logits: Tensor) -> Tensor:
    """Compute the mean of distributions over bins 0, 1, 2, ..., for logits [..., bins]."""
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(dim=-1) * bins).sum(dim=-1)


def boxes_around(centres: Tensor, strides: Tensor, distances: Tensor) -> Tensor:
    """Compute corners [..., 4] in pixels of boxes, for distances [..., 4] in strides."""
    lengths = distances * strides[..., None]
    return torch.cat([centres - lengths[..., :2], centres + lengths[..., 2:]], dim=-1)


def distances_to(boxes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Compute the distances [..., 4] in strides of the sides of boxes; negative where a centre is outside."""
    lengths = torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], dim=-1)
    return lengths / strides[..., None]

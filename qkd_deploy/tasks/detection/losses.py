"""Losses of detectors: quality focal, generalized overlap and distribution focal loss, and their soft forms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from qkd_deploy.errors import UserError
from qkd_deploy.tasks.detection.assign import Assignment, assign
from qkd_deploy.tasks.detection.levels import Places, boxes_around, distances_to, expected_distances, places_of
from qkd_deploy.tasks.detection.overlap import generalized_iou

OVERLAP_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.25
"""Of the terms of boxes beside that of scores, as Generalized Focal Loss weighs them."""


def detection_loss(answers: Sequence[Tensor], targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
    """Compare raw maps with boxes; terms are sums over the wanted scores' sum, and means by the shares of boxes.

    Args:
        answers: ``(scores, boxes, ...)``, see `places_of`.
        targets: boxes [N, M, 6].
        smoothing: share of a wanted score that is spread over all classes.

    Returns:
        "quality", "overlap" and "distribution"; all are 0 for perfect answers without smoothing.
    """
    places = places_of(answers)
    assignment = assign(places, targets)
    quality = assignment.quality
    weights = quality.sum(dim=2)
    total = weights.sum().clamp(min=1.0)
    if smoothing:
        quality = quality * (1 - smoothing) + weights[..., None] * (smoothing / quality.shape[2])
    focal = quality_focal(places.scores, quality) * assignment.judged[..., None]
    overlap, distribution = _box_losses(places, assignment)
    boxes = assignment.share.sum().clamp(min=1.0)
    return {
        "quality": focal.sum() / total,
        "overlap": OVERLAP_WEIGHT * overlap / boxes,
        "distribution": DISTRIBUTION_WEIGHT * distribution / boxes,
    }


def quality_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Compute ``(wanted - p)^2 * BCE(p, wanted)`` with ``p = sigmoid(logits)``, element by element."""
    focus = (logits.sigmoid() - wanted).square()
    return focus * functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def distribution_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Compute how far distributions [..., bins] are from one on the two bins around the wanted distances [...].

    It is the divergence from the closest one, so that it is 0 where nothing can be better: the cross entropy of the
    paper without a part that the network cannot change.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    wanted = wanted.clamp(0, logits.shape[-1] - 1)
    low = wanted.floor().long().clamp(max=logits.shape[-1] - 2)
    upper = wanted - low
    shares = torch.stack([1 - upper, upper], dim=-1)
    pair = log_probabilities.gather(-1, torch.stack([low, low + 1], dim=-1))
    return (torch.xlogy(shares, shares) - shares * pair).sum(dim=-1)


def _box_losses(places: Places, assignment: Assignment) -> tuple[Tensor, Tensor]:
    """Sum both losses of boxes over the places that learn one, weighted by their shares of it."""
    learns = assignment.learns
    logits, wanted, weight = places.distances[learns], assignment.boxes[learns], assignment.share[learns]
    centres = places.centres.expand(*learns.shape, 2)[learns]
    strides = places.strides.expand(learns.shape)[learns]
    boxes = boxes_around(centres, strides, expected_distances(logits))
    overlap = (1 - generalized_iou(boxes, wanted)) * weight
    distribution = distribution_focal(logits, distances_to(wanted, centres, strides)).sum(dim=-1) * weight
    return overlap.sum(), distribution.sum()


def imitation_loss(answers: Sequence[Tensor], imitated: Sequence[Tensor], temperature: float) -> dict[str, Tensor]:
    """Compare the raw maps of two networks place by place; the gradient reaches the first one only.

    Scores are compared as one two-way distribution a class, weighted by the larger of both networks' scores: what the
    learner invents counts too. The distributions of the four sides (Zheng et al., 2022: localization distillation) are
    weighted by the imitated network's largest score. Both are means by the imitated network's scores, times ``T^2``.

    Args:
        answers: of the network that learns.
        imitated: of the network that is imitated, of the same shapes.
        temperature: softens both.

    Returns:
        "score_kl" and "box_kl".

    Raises:
        UserError: the networks have other levels or bins.
    """
    shapes, others = ([list(item.shape[1:]) for item in maps] for maps in (answers, imitated))
    if shapes != others:
        raise UserError(f"the student's maps are {shapes}, the teacher's {others}; give both the same levels and bins")
    learner = places_of(answers)
    teacher = places_of([item.detach() for item in imitated])
    confidence = teacher.scores.sigmoid()
    weights = torch.maximum(confidence, learner.scores.detach().sigmoid())
    largest = confidence.amax(dim=2)
    total = largest.sum().clamp(min=1.0)
    scores = binary_kl(learner.scores / temperature, teacher.scores / temperature) * weights
    boxes = functional.kl_div(
        (learner.distances / temperature).log_softmax(dim=-1),
        (teacher.distances / temperature).log_softmax(dim=-1),
        reduction="none",
        log_target=True,
    ).sum(dim=(2, 3))
    return {
        "score_kl": temperature**2 * scores.sum() / total,
        "box_kl": DISTRIBUTION_WEIGHT * temperature**2 * (boxes * largest).sum() / total,
    }


def binary_kl(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Compute ``KL(sigmoid(target_logits) || sigmoid(logits))``, element by element; finite for all finite logits."""
    target = target_logits.sigmoid()
    yes = functional.logsigmoid(target_logits) - functional.logsigmoid(logits)
    no = functional.logsigmoid(-target_logits) - functional.logsigmoid(-logits)
    return target * yes + (1 - target) * no

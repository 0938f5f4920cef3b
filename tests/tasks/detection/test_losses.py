"""Losses of detectors, against loops that say the same in other words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qkd_deploy.errors import UserError
from qkd_deploy.tasks.detection.losses import (
    DISTRIBUTION_WEIGHT,
    OVERLAP_WEIGHT,
    binary_kl,
    detection_loss,
    distribution_focal,
    imitation_loss,
    quality_focal,
)
from qkd_deploy.tasks.detection.overlap import generalized_iou, iou
from qkd_deploy.tasks.detection.task import DETECTION

Maps = tuple[Tensor, ...]

TARGETS = torch.tensor(
    [
        [[0, 4, 4, 28, 36, 0], [2, 36, 20, 60, 52, 0], [-1, 0, 0, 0, 0, 0]],
        [[-1, 0, 0, 0, 0, 0], [1, 12, 12, 44, 40, 0], [-1, 0, 0, 0, 0, 0]],
    ],
    dtype=torch.float32,
)


def learning(maps: Maps) -> Maps:
    return tuple(item.clone().requires_grad_() for item in maps)


def test_perfect_answers_cost_nothing(perfect_maps: Callable[..., Maps]) -> None:
    terms = detection_loss(perfect_maps(TARGETS), TARGETS)
    assert set(terms) == {"quality", "overlap", "distribution"}
    assert all(float(value) == pytest.approx(0, abs=1e-4) for value in terms.values())


def test_each_term_notices_its_mistake(perfect_maps: Callable[..., Maps]) -> None:
    moved = TARGETS.clone()
    moved[..., 1:5] += 3.0
    terms = detection_loss(perfect_maps(moved), TARGETS)
    assert float(terms["overlap"]) > 0.2
    assert float(terms["distribution"]) > 0.2
    renamed = TARGETS.clone()
    renamed[..., 0] = torch.where(renamed[..., 0] >= 0, (renamed[..., 0] + 1) % 3, -1.0)
    assert float(detection_loss(perfect_maps(renamed), TARGETS)["quality"]) > 5


def test_untrained_answers_have_finite_losses_and_gradients(random_maps: Callable[..., Maps]) -> None:
    for scale in (0.0, 1.0, 300.0):
        maps = learning(tuple(item * scale for item in random_maps()))
        loss = sum(detection_loss(maps, TARGETS).values())
        assert isinstance(loss, Tensor)
        loss.backward()
        assert all(item.grad is not None and item.grad.isfinite().all() for item in maps)


@pytest.mark.parametrize("rows", [0, 2])
def test_images_without_objects_teach_low_scores(rows: int, random_maps: Callable[..., Maps]) -> None:
    empty = torch.zeros(2, rows, 6)
    empty[..., 0] = -1
    maps = learning(random_maps())
    terms = detection_loss(maps, empty)
    assert not terms["overlap"].any() and not terms["distribution"].any()
    terms["quality"].backward()
    assert all((item.grad > 0).all() for item in maps[0::2] if item.grad is not None)
    assert terms["quality"].detach() == pytest.approx(
        sum(float((item.sigmoid() ** 2 * torch.nn.functional.softplus(item)).sum()) for item in random_maps()[0::2]),
        rel=1e-5,
    )


def test_scores_in_a_crowd_are_not_judged(perfect_maps: Callable[..., Maps]) -> None:
    crowd = TARGETS.clone()
    crowd[0, 1, 5] = 1  # found all the same
    assert all(
        float(value) == pytest.approx(0, abs=1e-4) for value in detection_loss(perfect_maps(TARGETS), crowd).values()
    )
    without = crowd.clone()
    without[0, 1] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    assert float(detection_loss(perfect_maps(TARGETS), without)["quality"]) > 5


def test_smoothing_spreads_wanted_scores(perfect_maps: Callable[..., Maps]) -> None:
    assert float(detection_loss(perfect_maps(TARGETS), TARGETS, smoothing=0.3)["quality"]) > 0.1


def test_quality_focal_is_its_formula() -> None:
    for logit, wanted in ((0.3, 0.0), (-2.0, 0.7), (4.0, 1.0)):
        p = 1 / (1 + math.exp(-logit))
        expected = -((p - wanted) ** 2) * (wanted * math.log(p) + (1 - wanted) * math.log(1 - p))
        assert float(quality_focal(torch.tensor(logit), torch.tensor(wanted))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", [-1.0, 0.0, 0.25, 2.0, 3.9, 4.0, 9.0])
def test_distribution_focal_is_the_divergence_from_two_bins(distance: float) -> None:
    logits = torch.randn(5, generator=torch.Generator().manual_seed(1))
    wanted = min(max(distance, 0.0), 4.0)
    expected = 0.0
    for index in range(5):
        share = max(0.0, 1 - abs(wanted - index))
        if share:
            expected += share * (math.log(share) - float(logits.log_softmax(0)[index]))
    assert float(distribution_focal(logits, torch.tensor(distance))) == pytest.approx(expected, rel=1e-5)


def test_overlaps_are_those_of_areas() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [10, 0, 12, 4], [0, 0, 4, 4]])
    assert iou(boxes[0], boxes[1]) == pytest.approx(4 / 28)
    assert float(iou(boxes[0], boxes[2])) == 0
    assert float(iou(boxes[0], boxes[3])) == float(generalized_iou(boxes[0], boxes[3])) == 1
    assert float(generalized_iou(boxes[0], boxes[1])) == pytest.approx(4 / 28 - (36 - 28) / 36)
    assert float(generalized_iou(boxes[0], boxes[2])) == pytest.approx(-(48 - 24) / 48)
    nothing = torch.zeros(4)
    assert float(iou(nothing, nothing)) == 0


def test_losses_of_boxes_are_weighted_means(random_maps: Callable[..., Maps]) -> None:
    from qkd_deploy.tasks.detection.assign import assign
    from qkd_deploy.tasks.detection.levels import distances_to, places_of

    maps = random_maps()
    places, found = places_of(maps), assign(places_of(maps), TARGETS)
    overlap = distribution = total = 0.0
    for image in range(2):
        for place in range(places.scores.shape[1]):
            weight = float(found.share[image, place])
            if not found.learns[image, place]:
                assert weight == 0
                continue
            centre, stride, wanted = places.centres[place], places.strides[place], found.boxes[image, place]
            mean = (places.distances[image, place].softmax(1) * torch.arange(6)).sum(1) * stride
            box = torch.cat([centre - mean[:2], centre + mean[2:]])
            overlap += weight * (1 - float(generalized_iou(box, wanted)))
            far = distances_to(wanted, centre, stride)
            distribution += weight * sum(
                float(distribution_focal(places.distances[image, place, side], far[side])) for side in range(4)
            )
            total += weight
    terms = detection_loss(maps, TARGETS)
    assert float(terms["overlap"]) == pytest.approx(OVERLAP_WEIGHT * overlap / max(total, 1), rel=1e-4)
    assert float(terms["distribution"]) == pytest.approx(DISTRIBUTION_WEIGHT * distribution / max(total, 1), rel=1e-4)


def test_imitation_is_its_formula(random_maps: Callable[..., Maps]) -> None:
    learner, teacher, temperature = random_maps(seed=1), random_maps(seed=2), 2.0
    total = score = box = 0.0
    for level in range(3):
        mine, others = learner[2 * level], teacher[2 * level]
        total += float(others.sigmoid().amax(1).sum())
        for s, t in zip(mine.flatten().tolist(), others.flatten().tolist(), strict=True):
            p, q = (1 / (1 + math.exp(-value / temperature)) for value in (s, t))
            weight = max(1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t)))
            score += weight * (q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)))
        sides = [item[2 * level + 1].unflatten(1, (4, 6)) / temperature for item in (learner, teacher)]
        logs = [item.log_softmax(2) for item in sides]
        divergence = (logs[1].exp() * (logs[1] - logs[0])).sum(dim=(1, 2))
        box += float((divergence * others.sigmoid().amax(1)).sum())
    terms = imitation_loss(learner, teacher, temperature)
    assert float(terms["score_kl"]) == pytest.approx(temperature**2 * score / total, rel=1e-4)
    assert float(terms["box_kl"]) == pytest.approx(DISTRIBUTION_WEIGHT * temperature**2 * box / total, rel=1e-4)


def test_only_the_learner_learns(random_maps: Callable[..., Maps]) -> None:
    learner, teacher = learning(random_maps(seed=1)), learning(random_maps(seed=2))
    loss = sum(DETECTION.soft_loss(learner, teacher, 2.0).values())
    assert isinstance(loss, Tensor)
    loss.backward()
    assert all(item.grad is not None and item.grad.abs().sum() > 0 for item in learner)
    assert all(item.grad is None for item in teacher)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_imitation_is_finite_and_nothing_for_equals(scale: float, random_maps: Callable[..., Maps]) -> None:
    one, other = (learning(tuple(item * scale for item in random_maps(seed=seed))) for seed in (1, 2))
    assert all(float(value.detach()) == pytest.approx(0, abs=1e-5) for value in imitation_loss(one, one, 3.0).values())
    loss = sum(imitation_loss(one, other, 3.0).values())
    assert isinstance(loss, Tensor)
    loss.backward()
    assert loss.isfinite()
    assert all(item.grad is not None and item.grad.isfinite().all() for item in one)


def test_networks_of_other_bins_cannot_be_compared(random_maps: Callable[..., Maps]) -> None:
    with pytest.raises(UserError, match=r"the student.s maps are .* give both the same levels and bins"):
        imitation_loss(random_maps(bins=4), random_maps(bins=5), 2.0)
    imitation_loss(random_maps(bins=5), random_maps(bins=5), 2.0)


def test_binary_divergence_is_exact_at_the_ends() -> None:
    logits, target = torch.tensor([0.0, 90.0, -90.0]), torch.tensor([0.0, -90.0, 90.0])
    assert binary_kl(logits, target).tolist() == pytest.approx([0.0, 90.0, 90.0])

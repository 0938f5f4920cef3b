"""Segmentation: losses and measure against loops over pixels, and which answers and targets are understood."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from qkd_deploy.errors import UserError
from qkd_deploy.tasks.segmentation import (
    AUXILIARY,
    IGNORED,
    SEGMENTATION,
    ConfusionScore,
    Segmentation,
    logits_of,
    resampled,
)

CLASSES = ("road", "sky", "car")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masks(*shape: int, seed: int = 0, ignored: float = 0.2) -> Tensor:
    """Masks of three classes, a share of whose pixels is ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, IGNORED).byte()


def pixels(logits: Tensor, targets: Tensor) -> list[tuple[Tensor, int]]:
    """Logits and class of every pixel that counts, one by one."""
    return [
        (logits[n, :, y, x], int(targets[n, y, x]))
        for n in range(len(targets))
        for y in range(targets.shape[1])
        for x in range(targets.shape[2])
        if targets[n, y, x] != IGNORED
    ]


def test_the_hard_loss_is_the_mean_over_pixels_that_count() -> None:
    logits, targets = noise(2, 3, 4, 5), masks(2, 4, 5)
    each = [-torch.log_softmax(own, 0)[label] for own, label in pixels(logits, targets)]
    assert 0 < len(each) < 40
    (loss,) = SEGMENTATION.hard_loss(logits, targets).values()
    torch.testing.assert_close(loss, torch.stack(each).mean())
    smooth = [
        0.7 * -torch.log_softmax(z, 0)[k] - 0.1 * torch.log_softmax(z, 0).sum() for z, k in pixels(logits, targets)
    ]
    torch.testing.assert_close(SEGMENTATION.hard_loss(logits, targets, 0.3)["ce"], torch.stack(smooth).mean())


class Weighted(Segmentation):
    """A task of the user's in which rare classes count for more."""

    name = "weighted"
    weights = (0.5, 1.0, 3.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_classes_can_have_weights(smoothing: float) -> None:
    logits, targets = noise(2, 3, 4, 5), masks(2, 4, 5)
    expected = torch.nn.functional.cross_entropy(
        logits, targets.long(), torch.tensor(Weighted.weights), ignore_index=IGNORED, label_smoothing=smoothing
    )
    torch.testing.assert_close(Weighted().hard_loss(logits, targets, smoothing)["ce"], expected)
    each = [(-torch.log_softmax(z, 0)[k], Weighted.weights[k]) for z, k in pixels(logits, targets)]
    mean = torch.stack([loss * weight for loss, weight in each]).sum() / sum(weight for _, weight in each)
    torch.testing.assert_close(Weighted().hard_loss(logits, targets)["ce"], mean)
    assert Weighted().hard_loss(logits, targets * 0 + IGNORED)["ce"] == 0


def test_logits_at_a_fraction_are_compared_at_the_size_of_the_masks() -> None:
    small, targets = noise(2, 3, 3, 4), masks(2, 6, 8)
    full = torch.nn.functional.interpolate(small, size=(6, 8), mode="bilinear", align_corners=False)
    assert SEGMENTATION.hard_loss(small, targets)["ce"] == SEGMENTATION.hard_loss(full, targets)["ce"]
    assert figures(small, targets) == figures(full, targets)
    assert resampled(full, (6, 8)) is full


def test_pixels_that_are_ignored_have_no_gradient_and_a_batch_of_them_no_loss() -> None:
    logits, targets = noise(1, 3, 2, 2).requires_grad_(), torch.tensor([[[0, IGNORED], [2, 1]]], dtype=torch.uint8)
    SEGMENTATION.hard_loss(logits, targets)["ce"].backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, 0, 1].any() and logits.grad[0, :, 0, 0].any()
    assert SEGMENTATION.hard_loss(noise(1, 3, 2, 2), torch.full((1, 2, 2), IGNORED, dtype=torch.uint8))["ce"] == 0
    assert SEGMENTATION.hard_loss(noise(0, 3, 2, 2), masks(0, 4, 4))["ce"] == 0  # a process without images


def test_the_soft_loss_is_the_divergence_by_pixel_and_teaches_the_learner_alone() -> None:
    learner, imitated = noise(2, 3, 4, 5).requires_grad_(), noise(2, 3, 4, 5, seed=1).requires_grad_()
    each = []
    for n, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5)).tolist():
        p, q = (torch.softmax(z[n, :, y, x] / 3, 0) for z in (imitated, learner))
        each.append(9 * (p * (p / q).log()).sum())
    (loss,) = SEGMENTATION.soft_loss(learner, imitated, 3).values()
    torch.testing.assert_close(loss, torch.stack(each).mean())
    loss.backward()
    assert learner.grad is not None and imitated.grad is None
    finer = SEGMENTATION.soft_loss(learner, noise(2, 3, 8, 10), 3)["kl"]
    assert finer > 0
    torch.testing.assert_close(SEGMENTATION.soft_loss(learner, learner, 3)["kl"], torch.tensor(0.0))


def figures(answers: Any, targets: Tensor) -> dict[str, float]:
    score = SEGMENTATION.score()
    score.add(answers, targets)
    return score.figures()


def test_the_measure_counts_pixels_as_a_loop_does() -> None:
    logits, targets = noise(11, 3, 4, 5), masks(11, 4, 5)
    decided = [(int(own.argmax()), label) for own, label in pixels(logits, targets)]
    ratios = []
    for number in range(3):
        both = sum(number == given == label for given, label in decided)
        either = sum(number in (given, label) for given, label in decided)
        ratios.append(both / either)
    right = sum(given == label for given, label in decided) / len(decided)
    assert figures(logits, targets) == {"mIoU": 100 * sum(ratios) / 3, "pixel accuracy": 100 * right}
    assert next(iter(figures(logits, targets))) == SEGMENTATION.measure


def test_classes_that_occur_nowhere_are_left_out_of_the_mean() -> None:
    targets = torch.tensor([[[0, 0, 1, IGNORED]]], dtype=torch.uint8)
    perfect = torch.zeros(1, 4, 1, 4)
    perfect[0, [0, 0, 1, 3], 0, torch.arange(4)] = 1  # class 3 only where nothing counts, class 2 nowhere
    assert figures(perfect, targets)["mIoU"] == 100
    wrong = perfect.clone()
    wrong[0, 3, 0, 0] = 2  # given to a pixel, class 3 counts, at 0
    assert figures(wrong, targets)["mIoU"] == pytest.approx(100 * (1 / 2 + 1 + 0) / 3)


def test_scores_of_parts_join_to_that_of_the_whole() -> None:
    logits, targets = noise(7, 3, 4, 5), masks(7, 4, 5)
    parts = [SEGMENTATION.score() for _ in range(4)]
    for part, place in zip(parts, (slice(0, 3), slice(3, 4), slice(4, 7), slice(7, 7)), strict=True):
        if place.start < 7:
            part.add(logits[place], targets[place])
    parts[0].join([pickle.loads(pickle.dumps(part)) for part in parts[1:]])
    assert parts[0].figures() == figures(logits, targets)
    assert isinstance(parts[0], ConfusionScore) and parts[0].counts is not None
    assert parts[0].counts.dtype == torch.int64 and int(parts[0].counts.sum()) == len(pixels(logits, targets))
    assert SEGMENTATION.score().figures() == {"mIoU": 0, "pixel accuracy": 0}


def test_decisions_are_masks_that_teach() -> None:
    logits = noise(2, 3, 4, 5)
    decided = SEGMENTATION.decisions({"out": logits})
    assert decided.dtype == torch.uint8 and torch.equal(decided.long(), logits.argmax(1))
    SEGMENTATION.check_targets(decided, CLASSES, "x")
    assert figures(logits, decided)["mIoU"] == 100


@pytest.mark.parametrize(
    "form",
    [
        lambda z, aux: OrderedDict(out=z, aux=aux),  # torchvision
        lambda z, aux: {"aux": aux, "logits": z},  # Hugging Face
        lambda z, aux: (z, aux),  # a file's outputs
        lambda z, aux: [z, aux],
    ],
)
def test_logits_are_found_in_what_libraries_return(form: Any) -> None:
    logits, other, targets = noise(2, 3, 4, 5), noise(2, 3, 2, 3, seed=1), masks(2, 4, 5)
    answers = form(logits, other)
    assert logits_of(answers)[0] is logits
    terms = SEGMENTATION.hard_loss(answers, targets)
    assert terms["ce"] == SEGMENTATION.hard_loss(logits, targets)["ce"]
    assert terms["auxiliary"] == AUXILIARY * SEGMENTATION.hard_loss(other, targets)["ce"]
    assert figures(answers, targets) == figures(logits, targets)
    assert SEGMENTATION.soft_loss(answers, answers, 2)["kl"] == SEGMENTATION.soft_loss(logits, logits, 2)["kl"]
    SEGMENTATION.check_answers(answers, 2, 3, "net")


def test_features_beside_the_logits_are_no_auxiliary_classifiers() -> None:
    assert list(SEGMENTATION.hard_loss((noise(2, 3, 4, 5), noise(2, 16, 4, 5)), masks(2, 4, 5))) == ["ce"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (noise(2, 3), r"net returns \[2, 3\] for 2 images; segmentation needs logits of shape \[2, 3, height, width\]"),
        (noise(2, 4, 5, 5), r"net returns \[2, 4, 5, 5\] for 2 images"),
        ({"out": noise(2, 3)}, r"net returns \[2, 3\] as 'out', 'logits' or its first tensor for 2 images"),
        ((), "net returns tuple"),
        ("text", "net returns str"),
    ],
)
def test_answers_that_are_no_logits_by_pixel_are_refused(answers: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        SEGMENTATION.check_answers(answers, 2, 3, "net")
    SEGMENTATION.check_answers(noise(2, 3, 1, 1), 2, 3, "net")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (masks(4, 3).long(), r"x has targets int64 \[4, 3\]; segmentation needs masks uint8 \[N, H, W\]"),
        (masks(2, 4, 4).long(), r"x has targets int64 \[2, 4, 4\]"),
        (masks(2, 4, 4) * 0 + IGNORED, "the masks of x ignore every pixel; give class numbers from 0 to 2"),
        (masks(2, 4, 4, ignored=0) * 0 + 3, "hold the class 3, but its 3 classes are numbered from 0; write 255 where"),
    ],
)
def test_targets_that_are_no_masks_are_refused(targets: Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        SEGMENTATION.check_targets(targets, CLASSES, "x")
    SEGMENTATION.check_targets(masks(2, 4, 4), CLASSES, "x")


def test_more_classes_than_a_byte_tells_apart_are_refused() -> None:
    with pytest.raises(UserError, match="x has 256 classes; masks of bytes tell 255 apart"):
        SEGMENTATION.check_targets(masks(2, 4, 4), tuple(map(str, range(256))), "x")


def test_the_uncertainty_comes_from_the_pixels_of_each_class() -> None:
    score = SEGMENTATION.score()
    assert score.uncertainty() == 0
    targets = torch.full((1, 4, 5), IGNORED, dtype=torch.uint8)
    targets[0, 0], targets[0, 1] = 0, 2
    score.add(noise(1, 3, 4, 5), targets)
    assert score.uncertainty() == pytest.approx(100 * (1 / 5 + 1 / 5) / 2)
    score.add(noise(99, 3, 4, 5), targets.repeat(99, 1, 1))
    assert score.uncertainty() == pytest.approx(50 * (1 / 500 + 1 / 500) ** 0.5 / 2)

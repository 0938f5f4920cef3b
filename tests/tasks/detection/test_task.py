"""What the task of detection refuses, leaves out and decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model
from qkd_deploy.tasks.detection.task import DETECTION

Maps = tuple[Tensor, ...]

TARGETS = torch.tensor([[[0, 4, 4, 28, 36, 0], [-1, 0, 0, 0, 0, 0], [2, 36, 20, 60, 52, 0]]], dtype=torch.float32)


def test_maps_of_detectors_are_accepted(random_maps: Callable[..., Maps]) -> None:
    DETECTION.check_answers(random_maps(), 2, 3, "net")


def test_other_answers_are_refused_and_those_of_the_detector_are_not(random_maps: Callable[..., Maps]) -> None:
    maps = random_maps()
    one_level = tuple(item[..., :7, :7] for item in maps[:2]) + maps[2:]
    for answers, sentence in (
        (torch.zeros(2, 3), r"net returns \[2, 3\] for 2 images; detection needs pairs of maps"),
        ({"a": maps[0]}, "net returns dict"),
        (maps[:3], "net returns"),
        (maps[::-1], "as level 0; detection of 3 classes needs"),
        (one_level, r"net returns maps of \[7, 7\] and then of \[4, 4\] places"),
    ):
        with pytest.raises(UserError, match=sentence):
            DETECTION.check_answers(answers, 2, 3, "net")
    with pytest.raises(UserError, match="detection of 4 classes needs"):
        DETECTION.check_answers(maps, 2, 4, "net")
    network = create_model("detector", 4, 3, {"backbone": "plaincnn", "neck_channels": 4, "bins": 2}).eval()
    with torch.no_grad():
        DETECTION.check_answers(network(torch.zeros(2, 3, 64, 32)), 2, 4, "net")


def test_targets_are_checked() -> None:
    DETECTION.check_targets(TARGETS, ("a", "b", "c"), "cells")
    DETECTION.check_targets(torch.full((2, 0, 6), -1.0), ("a",), "cells")
    for change, sentence in (
        ((0, 0, 0, 3.0, 1.0), r"boxes of classes 2..3, but its 3 classes are numbered from 0"),
        ((0, 0, 0, 0.5, 0.0), r"boxes of classes 0.5..2"),
        ((0, 0, 3, 4.0, 5.0), "boxes without an area; leave them out"),
        ((0, 2, 5, 0.5, 1.0), "whose last column is not 0 or 1; write 1 for a crowd"),
    ):
        targets = TARGETS.clone()
        targets[change[:3]] = change[3]
        with pytest.raises(UserError, match=sentence):
            DETECTION.check_targets(targets, ("a", "b", "c"), "cells")
        targets[change[:3]] = change[4]
        DETECTION.check_targets(targets, ("a", "b", "c"), "cells")
    with pytest.raises(UserError, match=r"targets \[4\] of torch.int64; detection needs float32 boxes"):
        DETECTION.check_targets(torch.zeros(4, dtype=torch.long), ("a",), "cells")


def test_padding_is_left_out_where_no_image_needs_it() -> None:
    two = torch.cat([TARGETS, torch.full_like(TARGETS, -1.0)])
    assert torch.equal(DETECTION.collate(two), two[:, [0, 2]])
    assert DETECTION.collate(two[1:]).shape == (1, 0, 6)


def test_decisions_are_sure_detections(perfect_maps: Callable[..., Maps]) -> None:
    decided = DETECTION.decisions(perfect_maps(TARGETS))
    assert sorted(decided[0, :, 0].tolist()) == [0, 2]
    assert decided.shape == (1, 2, 6)
    score = DETECTION.score()
    score.add(perfect_maps(TARGETS), decided)
    assert score.figures()["mAP50"] == 100.0
    unsure = tuple(item - 20.5 if index % 2 == 0 else item for index, item in enumerate(perfect_maps(TARGETS)))
    assert DETECTION.decisions(unsure).shape == (1, 0, 6)

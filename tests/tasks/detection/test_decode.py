"""Detections of raw maps, against loops, and alike however images are put together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qkd_deploy.tasks.detection.decode import DETECTIONS, as_targets, detections_of, without_doubles
from qkd_deploy.tasks.detection.levels import places_of
from qkd_deploy.tasks.detection.overlap import iou

Maps = tuple[Tensor, ...]


def greedy(boxes: Tensor, classes: Tensor, overlap: float) -> list[int]:
    kept: list[int] = []
    for index in range(len(boxes)):
        if all(classes[index] != classes[k] or float(iou(boxes[index], boxes[k])) <= overlap for k in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("overlap", [0.1, 0.5])
def test_suppression_equals_a_loop(overlap: float) -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(4, 60, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 2 + torch.rand(4, 60, 2, generator=generator) * 20], dim=2)
    classes = torch.randint(0, 2, (4, 60), generator=generator)
    kept = without_doubles(boxes, classes, overlap)
    expected = [greedy(boxes[image], classes[image], overlap) for image in range(4)]
    assert [image.nonzero().flatten().tolist() for image in kept] == expected
    assert all(len(rows) < 59 for rows in expected)


def test_a_chain_of_doubles_is_settled_one_after_the_other() -> None:
    starts = torch.arange(12.0)
    boxes = torch.stack([starts, torch.zeros(12), starts + 4, torch.ones(12)], dim=1)[None]
    # each overlaps the next by 3 of 5, and the one after that by 2 of 6
    kept = without_doubles(boxes, torch.zeros(1, 12, dtype=torch.long), 0.5)
    assert kept[0].tolist() == [True, False] * 6


@pytest.mark.parametrize("level", [0, 1, 2])
def test_boxes_are_where_the_distances_say(level: int, perfect_maps: Callable[..., Maps]) -> None:
    targets = torch.tensor([[[2, 4.0, 6.0, 52.0, 60.0, 0.0]]])
    found = detections_of(perfect_maps(targets, level))[0]
    torch.testing.assert_close(found[0], torch.tensor([2, 4.0, 6.0, 52.0, 60.0, 1.0]), atol=1e-4, rtol=0)
    assert len(found) == 1


def test_places_are_row_by_row_and_level_by_level() -> None:
    maps = tuple(torch.zeros(1, count, 32 // s, 64 // s) for s in (8, 16, 32) for count in (2, 8))
    places = places_of(maps)
    assert places.centres[[0, 1, 8, 32, 40]].tolist() == [[4, 4], [12, 4], [4, 12], [8, 8], [16, 16]]
    assert places.strides.tolist() == [8.0] * 32 + [16.0] * 8 + [32.0] * 2


def test_a_fourth_level_is_finer() -> None:
    maps = tuple(torch.zeros(1, count, 64 // s, 64 // s) for s in (4, 8, 16, 32) for count in (2, 8))
    assert places_of(maps).strides.unique().tolist() == [4, 8, 16, 32]


def test_detections_do_not_depend_on_the_batch(random_maps: Callable[..., Maps]) -> None:
    maps = random_maps(images=5, classes=7, bins=16, pixels=96)
    together = detections_of(maps)
    for image in range(5):
        alone = detections_of(tuple(item[image : image + 1] for item in maps))[0]
        assert torch.equal(alone, together[image])
        assert len(alone) == DETECTIONS
        assert (alone[:, 5].diff() <= 0).all()


def test_equal_scores_come_in_the_order_of_places() -> None:
    maps = [torch.zeros(1, count, 64 // s, 64 // s) for s in (8, 16, 32) for count in (1, 8)]
    for boxes in maps[1::2]:
        boxes.view(1, 4, 2, *boxes.shape[2:])[:, :, 1] = -30.0  # no size: nothing overlaps
    found = detections_of(tuple(maps))[0]
    assert found[:3, 1:3].round().tolist() == [[4, 4], [12, 4], [20, 4]]


def test_detections_become_targets() -> None:
    found = [torch.tensor([[1, 0, 0, 4, 4, 0.9], [0, 1, 1, 3, 3, 0.8]]), torch.zeros(0, 6)]
    nothing = [-1.0, 0, 0, 0, 0, 0]
    assert as_targets(found).tolist() == [[[1, 0, 0, 4, 4, 0], [0, 1, 1, 3, 3, 0]], [nothing, nothing]]

"""Who learns which box: against loops over images, boxes and places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qkd_deploy.tasks.detection.assign import PLACES_OF_A_BOX, assign
from qkd_deploy.tasks.detection.levels import boxes_around, expected_distances, places_of
from qkd_deploy.tasks.detection.overlap import iou

Maps = tuple[Tensor, ...]


def random_targets(seed: int, images: int = 3, rows: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, rows, 2, generator=generator) * 40
    size = torch.rand(images, rows, 2, generator=generator) * 23 + 0.5
    classes = torch.randint(-1, 3, (images, rows, 1), generator=generator).float()
    return torch.cat([classes, corners, corners + size, torch.zeros(images, rows, 1)], dim=2)


@pytest.mark.parametrize("seed", range(3))
def test_assignment_equals_a_loop(seed: int, random_maps: Callable[..., Maps]) -> None:
    targets = random_targets(seed)
    places = places_of(random_maps(images=3, seed=seed))
    found = assign(places, targets)
    boxes = boxes_around(places.centres, places.strides, expected_distances(places.distances))
    for image, rows in enumerate(targets):
        claims: dict[int, list[int]] = {}
        overlaps, aligned = {}, {}
        for row, (number, x1, y1, x2, y2, _) in enumerate(rows.tolist()):
            if number < 0:
                continue
            inside = []
            for place, (x, y) in enumerate(places.centres.tolist()):
                overlaps[row, place] = float(iou(rows[row, 1:5], boxes[image, place]))
                score = float(places.scores[image, place, int(number)].sigmoid())
                aligned[row, place] = score**0.5 * overlaps[row, place] ** 6
                room = 4.0 if places.strides[place] == 8 else 0.0
                near_x = abs(x - (x1 + x2) / 2) <= max((x2 - x1) / 2, room)
                near_y = abs(y - (y1 + y2) / 2) <= max((y2 - y1) / 2, room)
                if near_x and near_y:
                    inside.append(place)
            best = sorted(inside, key=lambda place: -aligned[row, place])[:PLACES_OF_A_BOX]
            assert best, "every box is learned"
            for place in best:
                claims.setdefault(place, []).append(row)
        owner = {place: max(mine, key=lambda row: overlaps[row, place]) for place, mine in claims.items()}
        assert found.learns[image].nonzero().flatten().tolist() == sorted(owner)
        for row in set(owner.values()):
            mine = [place for place in owner if owner[place] == row]
            top = max(aligned[row, place] for place in mine)
            highest = max(overlaps[row, place] for place in mine)
            for place in mine:
                wanted = torch.zeros(3)
                wanted[int(rows[row, 0])] = aligned[row, place] / top * (1 + highest) / 2
                torch.testing.assert_close(found.quality[image, place], wanted, atol=1e-4, rtol=1e-3)
                assert float(found.share[image, place]) == pytest.approx(aligned[row, place] / top, rel=1e-3, abs=1e-5)
                assert torch.equal(found.boxes[image, place], rows[row, 1:5])
    assert not found.quality[~found.learns].any() and not found.share[~found.learns].any()
    assert found.judged.all()


def test_boxes_smaller_than_a_place_are_learned(random_maps: Callable[..., Maps]) -> None:
    targets = torch.tensor([[[1, 30.5, 17.0, 31.5, 18.0, 0.0]]])
    found = assign(places_of(random_maps(images=1)), targets)
    assert int(found.learns.sum()) == 1
    assert bool(found.learns[0, 2 * 8 + 3])  # the place of stride 8 that is nearest


def test_crowds_are_no_objects_and_excuse_what_lies_in_them(perfect_maps: Callable[..., Maps]) -> None:
    targets = torch.tensor([[[1, 8.0, 8.0, 40.0, 40.0, 0.0], [0, 24.0, 24.0, 64.0, 64.0, 1.0]]])
    alone = targets.clone()
    alone[0, 1, 5] = 0
    found = assign(places_of(perfect_maps(alone)), targets)
    assert set(found.quality.sum(dim=1).bool()[0].tolist()) == {False, True}
    assert not found.quality[..., 0].any()
    assert found.judged[found.learns].all()
    assert 0 < int((~found.judged).sum()) < 64

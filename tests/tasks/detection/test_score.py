"""Mean average precision: perfect and empty answers, crowds, and pycocotools on files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qkd_deploy.tasks.detection.score import MeanPrecision
from qkd_deploy.tasks.detection.task import DETECTION

Maps = tuple[Tensor, ...]

TARGETS = torch.tensor(
    [
        [[0, 4, 4, 28, 36, 0], [2, 36, 20, 60, 52, 0], [-1, 0, 0, 0, 0, 0]],
        [[-1, 0, 0, 0, 0, 0], [1, 12, 12, 44, 40, 0], [-1, 0, 0, 0, 0, 0]],
    ],
    dtype=torch.float32,
)


def figures(found: list[Tensor], targets: Tensor) -> dict[str, float]:
    score = MeanPrecision()
    score.add_detections(found, targets)
    return score.figures()


def sure(targets: Tensor) -> list[Tensor]:
    """Detections that are the targets themselves."""
    return [
        torch.cat([rows[rows[:, 0] >= 0][:, :5], torch.ones(int((rows[:, 0] >= 0).sum()), 1)], 1) for rows in targets
    ]


def test_perfect_answers_score_100(perfect_maps: Callable[..., Maps], capsys: pytest.CaptureFixture[str]) -> None:
    score = DETECTION.score()
    score.add(perfect_maps(TARGETS), TARGETS)
    assert score.figures() == {"mAP50-95": 100.0, "mAP50": 100.0}
    assert next(iter(score.figures())) == DETECTION.measure
    assert capsys.readouterr().out == ""


def test_a_box_that_is_a_little_off_counts_at_half_only() -> None:
    found = sure(TARGETS)
    for rows in found:
        rows[:, 1] += 3.0
    result = figures(found, TARGETS)
    assert result["mAP50"] == 100.0
    assert 50 < result["mAP50-95"] < 90


def test_nothing_found_and_nothing_wanted_score_0(perfect_maps: Callable[..., Maps]) -> None:
    assert figures([torch.zeros(0, 6)] * 2, TARGETS) == {"mAP50-95": 0.0, "mAP50": 0.0}
    empty = torch.zeros(2, 0, 6)
    assert figures(sure(TARGETS), empty) == {"mAP50-95": 0.0, "mAP50": 0.0}


def test_what_is_found_in_crowds_is_not_wrong() -> None:
    crowded = TARGETS.clone()
    crowded[0, 2] = torch.tensor([0, 32.0, 0, 64, 20, 1])
    found = sure(TARGETS)
    found[0] = torch.cat([torch.tensor([[0, 34.0, 2, 44, 12, 1.0], [0, 40.0, 2, 60, 16, 1.0]]), found[0]])
    assert figures(found, crowded)["mAP50"] == 100.0
    assert figures(found, TARGETS)["mAP50"] < 100.0


def test_parts_that_are_pickled_and_joined_give_the_whole(random_maps: Callable[..., Maps]) -> None:
    maps = random_maps(images=4, seed=5)
    targets = TARGETS.repeat(2, 1, 1)
    whole, parts = DETECTION.score(), [DETECTION.score() for _ in range(2)]
    whole.add(maps, targets)
    for index, part in enumerate(parts):
        part.add(tuple(item[2 * index : 2 * index + 2] for item in maps), targets[2 * index : 2 * index + 2])
    first, second = (pickle.loads(pickle.dumps(part)) for part in parts)
    first.join([second])
    assert first.figures() == whole.figures()
    assert 0 < whole.figures()["mAP50"] < 100


def test_files_give_pycocotools_the_same_figures(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    generator = torch.Generator().manual_seed(0)
    corners = (torch.rand(20, 5, 2, generator=generator) * 160).round()
    sizes = (torch.rand(20, 5, 2, generator=generator) * 150 + 4).round()
    classes = torch.randint(0, 3, (20, 5, 1), generator=generator).float()
    crowd = (torch.rand(20, 5, 1, generator=generator) < 0.15).float()
    targets = torch.cat([classes, corners, corners + sizes, crowd], dim=2)
    scores = (torch.rand(20, 5, 1, generator=generator) * 16).round() / 16  # with many equal ones
    noise = (torch.randn(20, 5, 4, generator=generator) * 6).round()
    found = list(torch.cat([classes, targets[..., 1:5] + noise, scores], dim=2))
    truth = {"images": [{"id": index + 1} for index in range(20)], "categories": [{"id": k} for k in (1, 2, 3)]}
    boxes, results = [], []
    for image in range(20):
        for (number, x1, y1, x2, y2, crowded), row in zip(targets[image].tolist(), found[image].tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            where = {"image_id": image + 1, "category_id": int(number) + 1}
            boxes.append({**where, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowded), "id": len(boxes) + 1})
            other = [row[1], row[2], row[3] - row[1], row[4] - row[2]]
            results.append({**where, "bbox": other, "score": row[5]})
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "annotations": boxes}))
    (tmp_path / "found.json").write_text(json.dumps(results))
    coco = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = [round(100 * float(value), 10) for value in evaluation.stats[:2]]
    assert list(figures(found, targets).values()) == expected
    assert 20 < 100 * evaluation.stats[0] < 90


def test_the_uncertainty_is_that_of_the_rarest_classes() -> None:
    """A mean over classes is known no better than its rarest ones."""
    score = DETECTION.score()
    assert score.uncertainty() == 0
    rows = torch.tensor([[label, 0, 0, 9, 9, 0] for label in (0, 0, 0, 0, 1)] + [[2, 0, 0, 9, 9, 1], [-1] * 6]).float()
    score.add_detections([torch.zeros(0, 6)], rows[None])  # type: ignore[attr-defined]
    assert score.uncertainty() == 100 * (1 / 4 + 1) / 2
    score.add_detections([torch.zeros(0, 6)] * 99, rows[None].repeat(99, 1, 1))  # type: ignore[attr-defined]
    assert score.uncertainty() == pytest.approx(5 * (1 / 4 + 1) ** 0.5 / 2)

"""A file whose answers the task of the data cannot read is refused in one sentence, and its own task reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentences import is_said, the_one_with
from small_detector import images as small_images
from small_detector import prepared_detector
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.data import ImageDataset, Split
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.classification import CLASSIFICATION
from qkd_deploy.tasks.detection.score import MeanPrecision
from qkd_deploy.tasks.detection.task import DETECTION, Detection
from qkd_deploy.tasks.segmentation import SEGMENTATION
from qkd_deploy.tasks.task import Score, Task
from qkd_deploy.verification.report import VerificationReport

TEST = "tests/tasks/test_verify_tasks.py::test_the_task_that_a_file_was_made_for_is_asked_for"
NAMES = ("one", "two", "three")
PIXELS = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGETS: dict[str, tuple[Task, Tensor]] = {
    "classes": (CLASSIFICATION, torch.tensor([0, 1, 2, 1])),
    "masks": (SEGMENTATION, torch.arange(3, dtype=torch.uint8).repeat(4, 64, 22)[:, :, :64]),
    "boxes": (DETECTION, torch.tensor([[[1, 8, 8, 40, 40, 0.0]]] * 4)),
}


class CountsBoxes(MeanPrecision):
    """Takes one map [N, 5 + classes, h, w] for no detections at all."""

    def add(self, answers: Any, targets: Tensor) -> None:
        self.add_detections([answers.new_zeros(0, 6)] * len(targets), targets)


class Grid(Detection):
    """Boxes from one map, as detectors with a grid give it."""

    def score(self) -> Score:
        return CountsBoxes()

    def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
        if not isinstance(answers, Tensor) or answers.shape[:2] != (images, 5 + classes):
            raise UserError(f"{name} gives no grid of {classes} classes; give one")


class Network(nn.Module):
    """Ends as networks of a kind do."""

    def __init__(self, head: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 32, 1)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.stem(x)))


HEADS: dict[str, tuple[Callable[[Tensor], Any], str, Task]] = {
    "classifier": (lambda y: y[:, :3].mean((2, 3)), "classes", CLASSIFICATION),
    "segmenter": (lambda y: y[:, :3], "masks", SEGMENTATION),
    "detector": (lambda y: (y[:, :3], y[:, :16]), "boxes", DETECTION),
    "grid": (lambda y: y[:, :8], "boxes", Grid()),
}


ALIKE = {("detector", "masks")}
"""Maps of scores by class are logits by pixel, too: nothing but the user tells them apart."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each head."""
    folder = tmp_path_factory.mktemp("files")
    normalized = (PIXELS.float() - 128) / 64
    for name, (head, _, _) in HEADS.items():
        torch.manual_seed(0)
        prepared = qkd.prepare(Network(head).eval(), "w8a8", (normalized[:2],))
        qkd.initialize(prepared, normalized)
        qkd.export_onnx(prepared.eval(), folder / f"{name}.onnx")
    return folder


def data(kind: str, task: Task | None = None) -> ImageDataset:
    own, targets = TARGETS[kind]
    split = Split(PIXELS, targets)
    return ImageDataset(kind, split, split, NAMES, task=task or own)


def verified(file: Path, images: ImageDataset) -> VerificationReport:
    return qkd.verify_onnx(file, data=images, threads=(1,))


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("head", HEADS)
def test_only_the_data_of_its_own_task_are_scored(head: str, kind: str, files: Path) -> None:
    _, own_kind, own = HEADS[head]
    if TARGETS[kind][0] is own or (head, kind) in ALIKE:
        assert verified(files / f"{head}.onnx", data(kind)).passed
        return
    with pytest.raises(UserError) as refused:
        verified(files / f"{head}.onnx", data(kind))
    message = str(refused.value)
    assert "\n" not in message and "Error" not in message
    if TARGETS[kind][0] is CLASSIFICATION:
        assert "so it is no classifier" in message and "--task" in message
    else:
        assert (
            is_said(the_one_with("verify it with the task that it was made for", TEST), message)
            and "the file returns" in message
        )
    assert verified(files / f"{head}.onnx", data(own_kind, own)).passed
    assert qkd.verify_onnx(files / f"{head}.onnx", inputs=PIXELS.numpy(), threads=(1,)).passed


def test_a_score_that_fails_on_answers_that_its_task_took_is_named(files: Path) -> None:
    class Careless(Grid):
        def score(self) -> Score:
            return MeanPrecision()

    with pytest.raises(UserError, match=r"the score of the task detection fails with \w+: .*; correct it") as refused:
        verified(files / "grid.onnx", data("boxes", Careless()))
    assert "\n" not in str(refused.value)
    assert verified(files / "grid.onnx", data("boxes", Grid())).passed


@pytest.mark.parametrize("tail", ["inside", "separate"])
def test_detectors_that_decode_are_refused_with_the_task_of_raw_maps(tail: str, tmp_path: Path) -> None:
    model = prepared_detector(normalization="centered")
    qkd.export_onnx(model, tmp_path / "m.onnx", tail=tail)
    pixels = small_images(4).mul(255).to(torch.uint8)
    split = Split(pixels, TARGETS["boxes"][1])
    boxes = ImageDataset("boxes", split, split, NAMES, task=DETECTION)
    with pytest.raises(UserError, match=r"detection needs pairs of maps.*verify it with the task"):
        qkd.verify_onnx(tmp_path / "m.onnx", data=boxes, threads=(1,), frozen=qkd.freeze(model))

    class Decoded(Detection):
        def score(self) -> Score:
            return FirstOf()

        def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
            assert answers[0].shape[:2] == (images, 4 + classes)

    class FirstOf(CountsBoxes):
        def add(self, answers: Any, targets: Tensor) -> None:
            super().add(answers[0], targets)

    own = replace(boxes, task=Decoded())
    assert qkd.verify_onnx(tmp_path / "m.onnx", data=own, threads=(1,), frozen=qkd.freeze(model)).passed
    if tail == "separate":
        (tmp_path / "m.decode.onnx").unlink()  # nothing to judge is left: the level is skipped
        report = qkd.verify_onnx(tmp_path / "m.onnx", data=boxes, threads=(1,), frozen=qkd.freeze(model))
        assert [level.status for level in report.levels if level.name == "accuracy"] == ["skipped"]

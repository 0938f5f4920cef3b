"""Ways out of data and networks that a task cannot use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from ways import Way, follow, require_all

import qkd_deploy as qkd
from qkd_deploy.data import ImageDataset, JointTransform, Split
from qkd_deploy.tasks.detection.task import DETECTION
from qkd_deploy.tasks.named import task_named
from qkd_deploy.training.methods.features import FeatureStudent, QuantizedFeatureTeacher

TEST = "tests/tasks/test_ways.py::test_the_way_out_works"
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Flip(JointTransform):
    """A mirror for images; what it does to boxes does not matter here."""

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        count: int | None = None,
        place: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        return images.flip(3), targets


def boxes() -> ImageDataset:
    targets = torch.tensor([[[0, 1, 1, 9, 9, 0.0]]] * 4)
    split = Split(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), targets)
    return ImageDataset("boxes", split, split, ("one",), task=DETECTION, augmentation=Flip())


class Halves(nn.Module):
    """A map of full size, and one of half the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.coarse(torch.relu(self.fine(x)))))


def compared(point: str, teacher_point: str, width: int = 4) -> Tensor:
    teacher = QuantizedFeatureTeacher(Halves(6), teacher_point, 4, IMAGES, pools=False)
    prepared = qkd.prepare(Halves(width).eval(), "w4a4", IMAGES)
    qkd.initialize(prepared, IMAGES)
    student = FeatureStudent(prepared, point, teacher.shape, IMAGES, pools=False)
    feature = student(IMAGES).feature
    assert feature.shape[1:] == teacher.shape == teacher(IMAGES).feature.shape[1:]
    return feature


WAYS = {
    "images that move without their targets": Way(
        lambda folder: boxes().augmentation_named("crop"),
        "would move what the targets of",
        lambda folder: [boxes().augmentation_named(name) for name in ("auto", "none")],
        "use auto or none",
    ),
    "a task that is none": Way(
        lambda folder: task_named("collections:OrderedDict"),
        "name a class derived from",
        lambda folder: task_named("qkd_deploy.tasks.detection.task:Detection"),
    ),
    "features of other places": Way(
        lambda folder: compared("coarse", "fine"),
        "whose places cannot be compared",
        lambda folder: compared("coarse", "coarse"),
        advice="name another --teacher-feature-point",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_every_way_is_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("width", [4, 6])
def test_maps_are_compared_place_by_place(width: int) -> None:
    """Also where the teacher's have more channels: by a trained 1x1 convolution."""
    assert compared("coarse", "coarse", width).shape == (2, 6, 8, 8)


def test_the_task_of_a_data_set_can_be_another() -> None:
    made = replace(boxes(), task=task_named("detection"))
    assert made.measure == "mAP50-95" and made.task.name == "detection"

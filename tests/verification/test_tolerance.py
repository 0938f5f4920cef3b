"""How far the float preview may be from the integer model: what is tolerated, or what the measure cannot tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qkd_deploy.data import ImageDataset, Split
from qkd_deploy.tasks.segmentation import SEGMENTATION
from qkd_deploy.verification.checks.outputs import OutputsComparison
from qkd_deploy.verification.checks.tally import Tally
from qkd_deploy.verification.findings import Level


def level(rare: int, *, wrong: str, flips: int = 1, tolerance: float | None = 0.1) -> Level:
    """The accuracy level of 10 masks of 1,000 pixels of three classes, where a side misses pixels of the rare one."""
    masks = torch.zeros(10, 20, 50, dtype=torch.uint8)
    masks[:, 10:], masks[0].view(-1)[:rare] = 1, 2
    pixels = torch.zeros(10, 3, 20, 50, dtype=torch.uint8)
    split = Split(pixels, masks)
    data = ImageDataset("masks", split, split, ("a", "b", "c"), task=SEGMENTATION)
    right = np.eye(3, dtype=np.float32)[masks.numpy()].transpose(0, 3, 1, 2)
    sides = {side: [right.copy()] for side in ("preview", "frozen", "runtime")}
    sides[wrong][0].reshape(10, 3, -1)[0, :, :flips] = [[1], [0], [0]]
    tally = Tally(OutputsComparison({"output": True}, 1e-4), data)
    tally.add(sides, 10, masks.numpy())
    return tally.accuracy_result(tolerance)


def test_one_pixel_of_a_rare_class_is_no_fault_of_the_preview() -> None:
    """It moves the mean by 33 points, which is said."""
    found = level(1, wrong="preview")
    assert found.status == "passed"
    assert found.sentences[-1].endswith(" (33.34 points between preview and frozen, of which 33.34 may be chance)")


@pytest.mark.parametrize(("flips", "status"), [(1, "passed"), (2, "passed"), (20, "failed")])
def test_many_pixels_are(flips: int, status: str) -> None:
    found = level(50, wrong="preview", flips=flips)
    assert found.status == status
    if status == "failed":
        assert found.sentences[0].startswith("the float preview is more than 2.38 points away")


@pytest.mark.parametrize("tolerance", [0.1, 100.0, None])
@pytest.mark.parametrize("wrong", ["frozen", "runtime"])
def test_nothing_is_allowed_between_the_frozen_model_and_the_runtime(wrong: str, tolerance: float | None) -> None:
    found = level(1, wrong=wrong, tolerance=tolerance)
    assert found.status == "failed" and "the frozen model and ONNX Runtime reach other figures" in found.sentences


def test_a_tolerance_of_0_asks_for_equal_figures() -> None:
    assert level(50, wrong="preview", tolerance=0.0).status == "failed"
    assert level(50, wrong="preview", tolerance=None, flips=50).status == "passed"

"""Codes behind float operators: at a tie either of two is right, elsewhere few may differ, and none by two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qkd_deploy as qkd
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.verification.compare import CodesComparison
from qkd_deploy.verification.reference.model import ReferenceModel, ReferenceResult
from qkd_deploy.verification.reference.rounding import FLOAT_ERROR


class Always:
    """Moves every value by as much as it may, in one direction."""

    def __init__(self, direction: int) -> None:
        self.direction = direction

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, high if self.direction > 0 else low)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.Conv2d(16, 8, 3))
    x = torch.randn(2, 3, 64, 64)
    prepared = qkd.prepare(network.eval(), "w8a8", (x,))
    qkd.initialize(prepared, x)
    return build_model(prepared.eval())[0]


@pytest.fixture(scope="module")
def results(model: onnx.ModelProto) -> list[ReferenceResult]:
    """The reference as it is, and with all values behind floats a little lower and a little higher."""
    feeds = {"input": np.random.default_rng(0).normal(size=(8, 3, 64, 64)).astype(np.float32)}
    reference = ReferenceModel(model)
    moved: list[Any] = [None, (Always(-1), FLOAT_ERROR), (Always(1), FLOAT_ERROR)]
    return [reference.run(feeds, moved=how) for how in moved]


def test_near_ties_are_where_the_error_of_floats_changes_codes(results: list[ReferenceResult]) -> None:
    own, low, high = results
    (name,) = own.rounded
    near, codes = own.near_ties[name], own.codes[name]
    changed = (low.codes[name] != codes) | (high.codes[name] != codes)
    inside = (codes > 0) & (codes < 255)
    assert changed.sum() > 20 and (near & inside).sum() <= 1.1 * changed.sum() + 3
    assert (changed & ~near).sum() <= 0.1 * changed.sum()  # the products of the move are rounded, too


def differing(near: np.ndarray, at: np.ndarray, steps: int = 1) -> list[str]:
    comparison = CodesComparison(["t"], {})
    codes = np.full(near.shape, 7, np.uint8)
    comparison.within_a_step("t", codes, codes + np.where(at, steps, 0).astype(np.uint8), near)
    return comparison.exceeding()


def test_ties_may_fall_either_way_and_nothing_else_may() -> None:
    near = np.zeros(100_000, bool)
    near[:500] = True
    assert differing(near, near) == []
    assert differing(near, np.roll(near, 4)) == []  # 4 away from ties, of 1e-5 + 3
    assert differing(near, np.roll(near, 5)) == ["t: 5 of 100,000 codes of t differ, by up to 1 steps"]
    assert differing(near, near, steps=2) == ["t: codes of t differ, by up to 2 steps"]


@pytest.mark.parametrize("kind", ["transposed", "placement paper", "bilinear", "group norm"])
@pytest.mark.parametrize("seed", [1, 4])
def test_fresh_files_with_many_codes_behind_floats_agree(kind: str, seed: int, tmp_path: Path) -> None:
    """Up to a million codes; these seeds had 16 and 18 at ties, where 13 were allowed."""
    torch.manual_seed(seed)
    layers: list[nn.Module]
    options: dict[str, Any]
    if kind in ("bilinear", "group norm"):
        smooth = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True)
        between = smooth if kind == "bilinear" else nn.GroupNorm(4, 32)
        layers, options = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), between, nn.Conv2d(32, 8, 3, 2)], {}
    elif kind == "transposed":
        layers = [
            nn.Conv2d(3, 32, 3, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 8, 3),
        ]
        options = {}
    else:
        layers = [nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU()]
        layers, options = [*layers, nn.Conv2d(64, 8, 3, 1, 1)], {"placement": "paper"}
    network, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 128, 128)
    prepared = qkd.prepare(network, "w8a8", (x,), **options)
    qkd.initialize(prepared, x)
    qkd.export_onnx(prepared.eval(), tmp_path / "m.onnx")
    report = qkd.verify_onnx(tmp_path / "m.onnx")
    assert report.passed, report.verdict

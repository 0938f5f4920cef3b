"""The table of calibration methods comes out complete; what the numbers are is for the real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from qkd_deploy import create_model
from qkd_deploy.quantizers.settings import SCALE_METHODS


def test_every_method_gets_a_row(run: Callable[..., str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(create_model("resnet8", 10, 1).state_dict(), tmp_path / "net.pt")
    options = ["--dataset", "digits", "--model", "resnet8", "--bits", "w8a8", "--images", "40", "--json", "out.json"]
    printed = run("calibration.py", *options, "net.pt")
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["integer"]) == [*SCALE_METHODS, "mse + bn"]
    for method, row in report["integer"].items():
        assert f"| {method} | {row['w8a8']:.2f} |" in printed
    assert (report["dataset"], report["images"]) == ("digits", 359)

"""The benchmark of training steps runs and writes what its readers expect; nothing here asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def test_time_and_memory_are_compared_with_full_precision_and_peers(run: Callable[..., str], tmp_path: Path) -> None:
    arguments = ["--model", "resnet8", "--batch", "8", "--rounds", "1", "--no-compile", "--json", "out.json"]
    printed = run("train_step.py", *arguments)
    report = json.loads((tmp_path / "out.json").read_text())
    rows = {row["name"]: row for row in report["results"]}
    peers = {"torch_learnable", "textbook_lsq"} | ({"brevitas"} if report["settings"]["brevitas"] else set())
    assert rows.keys() == {"fp32", "qkd_deploy_eager"} | peers
    assert rows["fp32"]["ratio_to_fp32"] == rows["fp32"]["saved_ratio_to_fp32"] == 1
    assert 1 < rows["qkd_deploy_eager"]["saved_ratio_to_fp32"] < 1.6 < rows["torch_learnable"]["saved_ratio_to_fp32"]
    assert all(row["quartile_1"] <= row["ratio_to_fp32"] <= row["quartile_3"] for row in rows.values())
    assert "qkd_deploy_eager" in printed and "commit" in report["provenance"]

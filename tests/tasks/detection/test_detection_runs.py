"""Detectors train, export and verify from a folder of boxes, and their figures are the runtime's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_ways import command
from html_page import read_html
from squares import write_squares

SMALL = "--batch-size 4 --threads 1 --pretrain-epochs 1 --teacher-pretrain-epochs 1 --teacher-feature-epochs 1"
TINY = {"backbone": "resnet10", "backbone_args": '{"width"=8}', "neck_channels": 8, "head_layers": 0, "bins": 4}
LOSSES = {"qfd": {"quality", "overlap", "distribution", "feature"}, "qkd": {"quality", "overlap", "distribution"}}
IMITATION = {"score_kl", "box_kl"}


def network(role: str) -> str:
    """The option of a role, with its arguments."""
    return f"--{role} detector " + " ".join(f"--{role}-arg {key}={value}" for key, value in TINY.items())


@pytest.mark.parametrize("method", LOSSES)
def test_boxes_are_learned_exported_and_verified(method: str, tmp_path: Path) -> None:
    write_squares(tmp_path / "squares")
    epochs = 3 if method == "qkd" else 2
    data = "--dataset yolo:squares --image-size 64"
    networks = f"{network('model')} {network('teacher')}"
    for line in (
        f"train {data} {SMALL} {networks} --method {method} --epochs {epochs} --out run",
        "export run/model.pt",
        f"verify run/model.onnx {data} --checkpoint run/model.pt --require-integer --json report.json",
    ):
        answer = command(line, tmp_path)
        assert answer.code == 0, answer.err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert set(last["losses"]["student"]) == LOSSES[method] | (IMITATION if method == "qkd" else set())
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["proven"] == "VERIFIED" and report["differing_codes"] == 0 and report["metric"] == "mAP50-95"
    figures = report["figures"]
    assert figures["frozen"] == figures["runtime"] and list(figures["runtime"]) == ["mAP50-95", "mAP50"]
    if method == "qfd":
        assert command("report run", tmp_path).code == 0
        page = read_html((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
        tiles = {tile.one("dt").text: tile.one("dd", "value").text for tile in page.all("div", "tile")}
        assert tiles["mAP50-95"] == f"{figures['runtime']['mAP50-95']:.2f} %" and "accuracy" not in tiles
        assert "Held-out mAP50-95" in [title.text for title in page.all("h3")]
    assert last["accuracy"] == report["accuracy"]["runtime"] == figures["runtime"]["mAP50-95"]

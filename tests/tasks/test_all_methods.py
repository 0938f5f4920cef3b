"""Every method trains detectors and segmenters, with the terms that its losses are made of."""

from __future__ import annotations

import json
from itertools import product
from math import isfinite
from pathlib import Path

import pytest
from command_ways import command
from mask_files import write_camvid
from squares import write_squares

from qkd_deploy.distill.methods import METHODS

SHORT = "--batch-size 4 --threads 1 --pretrain-epochs 1 --teacher-pretrain-epochs 1 --teacher-feature-epochs 1"
DETECTOR = "detector --{0}-arg backbone=resnet8 --{0}-arg neck_channels=8 --{0}-arg head_layers=0 --{0}-arg bins=4"
SEGMENTER = "segmenter --{0}-arg backbone=resnet8 --{0}-arg width=8"
NETWORKS = {"detection": DETECTOR, "segmentation": SEGMENTER}
DATA = {"detection": "--dataset yolo:squares --image-size 64", "segmentation": "--dataset masks:street"}
HARD = {"detection": {"quality", "overlap", "distribution"}, "segmentation": {"ce"}}
SOFT = {"detection": {"score_kl", "box_kl"}, "segmentation": {"kl"}}
TERMS = {"qat": (True, False), "kd": (True, True), "qkd": (True, True), "gslr": (True, True), "sqakd": (False, True)}
"""Whether labels count at the end, and whether a teacher does."""


WHOLE_WAY = {("qkd", "detection"), ("qfd", "detection"), ("qfd", "segmentation")}
"""Those that other tests train, export and verify."""


@pytest.mark.parametrize(("method", "task"), sorted({*product(METHODS, NETWORKS)} - WHOLE_WAY))
def test_it_trains_to_finite_losses_of_its_own(method: str, task: str, tmp_path: Path) -> None:
    write_squares(tmp_path / "squares")
    write_camvid(tmp_path / "street", size=(32, 32))
    model, teacher = (NETWORKS[task].format(role) for role in ("model", "teacher"))
    networks = f"--model {model}" + ("" if method == "qat" else f" --teacher {teacher}")
    epochs = {"qkd": "1,1,1"}.get(method, "1")
    answer = command(f"train {DATA[task]} {SHORT} {networks} --method {method} --epochs {epochs} --out run", tmp_path)
    assert answer.code == 0, answer.err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    terms = last["losses"]["student"]
    hard, soft = TERMS[method]
    expected = (HARD[task] if hard else set()) | (SOFT[task] if soft else set())
    assert set(terms) == expected and all(map(isfinite, terms.values()))
    assert (tmp_path / "run" / "model.pt").is_file()

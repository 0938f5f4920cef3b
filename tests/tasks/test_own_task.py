"""A task of the user's trains, distils, exports and verifies by every method, and its figures are the runtime's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_ways import command

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = "--dataset seven_segments:written_digits --task seven_segments:Segments"
SMALL = "--model resnet8 --teacher resnet8 --batch-size 200 --threads 1 --pretrain-epochs 2 --teacher-pretrain-epochs 2"
SOFT = {"qat": set(), "qfd": {"feature"}}
"""Terms of a method's last phase beside the hard loss, where there are others than the task's soft loss."""


def run(line: str, status: int = 0) -> None:
    answer = command(line, EXAMPLES)
    assert answer.code == status, answer.err


@pytest.mark.parametrize("method", ["qat", "kd", "qkd", "gslr", "qfd", "sqakd"])
def test_every_method_trains_it(method: str, tmp_path: Path) -> None:
    out, report = tmp_path / "run", tmp_path / "report.json"
    epochs = f"--epochs {'1,1,1' if method == 'qkd' else '2'} --teacher-feature-epochs 1"
    run(f"train {NAMES} {SMALL} {epochs} --method {method} --out {out} --json")
    last = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    hard = set() if method == "sqakd" else {"bce"}
    assert set(last["losses"]["student"]) == hard | SOFT.get(method, {"soft"})
    run(f"export {out}/model.pt")
    run(f"verify {out}/model.onnx {NAMES} --checkpoint {out}/model.pt --json {report}")
    table = json.loads(report.read_text(encoding="utf-8"))
    assert table["proven"] == "VERIFIED" and table["differing_codes"] == 0
    figures, name = table["figures"], "whole digits"
    assert table["metric"] == name and figures["frozen"] == figures["runtime"]
    assert last["accuracy"] == table["accuracy"]["runtime"] == figures["runtime"][name] > 10


def test_targets_of_another_task_are_refused() -> None:
    wrong = command("train --dataset digits --task seven_segments:Segments --model resnet8", EXAMPLES)
    assert wrong.code == 2 and "does not say for each segment" in wrong.err and len(wrong.err.splitlines()) == 1

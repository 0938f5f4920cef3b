"""A task of the user's trains, distils, exports and verifies by every method, and its figures are the runtime's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from qkd_deploy.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ["--dataset", "seven_segments:written_digits", "--task", "seven_segments:Segments"]
SMALL = ["--model", "resnet8", "--teacher", "resnet8", "--batch-size", "200", "--threads", "1"]


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "seven_segments", raising=False)


def run(*words: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == status, result.output
    return result.output


@pytest.mark.parametrize("method", ["qat", "kd", "qkd", "gslr", "qfd", "sqakd"])
def test_every_method_trains_it(method: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    epochs = ["--epochs", "1,1,1" if method == "qkd" else "2", "--pretrain-epochs", "2"]
    epochs += ["--teacher-pretrain-epochs", "2", "--teacher-feature-epochs", "1"]
    run("train", *NAMES, *SMALL, *epochs, "--method", method, "--out", str(out), "--json")
    losses = [
        set(json.loads(line)["losses"]["student"]) for line in (out / "metrics.jsonl").read_text().splitlines()[-1:]
    ]
    soft = {"qat": set(), "qfd": {"feature"}}.get(method, {"soft"})
    assert losses == [soft if method == "sqakd" else {"bce"} | soft]
    run("export", str(out / "model.pt"))
    report = tmp_path / "report.json"
    checkpoint = ["--checkpoint", str(out / "model.pt"), "--json", str(report)]
    assert "VERIFIED" in run("verify", str(out / "model.onnx"), *NAMES, *checkpoint)
    table = json.loads(report.read_text())
    assert table["metric"] == "whole digits" and table["differing_codes"] == 0
    assert table["figures"]["frozen"] == table["figures"]["runtime"]
    assert table["accuracy"]["runtime"] == table["figures"]["runtime"]["whole digits"] > 1

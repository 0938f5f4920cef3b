"""Ways out of mistakes with ``report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_ways import Line, follow, require_all, runs

from qkd_deploy.checkpoints.checkpoint import load_checkpoint, save_checkpoint

TEST = "tests/cli/ways/test_report_ways.py::test_the_way_out_works"


def trained_on(folder: Path) -> None:
    """Leave another checkpoint in the run than the one that model.onnx was exported from."""
    old = load_checkpoint(folder / "run/model.pt")
    save_checkpoint(folder / "run/model.pt", replace(old, training=replace(old.training, seed=7)))


WAYS = {
    "a misspelt folder": Line("report rnu", "holds no run; give a folder", "report run"),
    "the file of another run": Line(
        "report run model.onnx",
        "was exported from another checkpoint",
        "report run",
        advice="give the file of this run, or export run/model.pt again",
        before=trained_on,
        mend=runs("export run/model.pt"),
    ),
    "a file that is read": Line(
        "report run --output run/metrics.jsonl", "the report would replace", "report run --output page.html"
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)

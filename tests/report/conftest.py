"""One small run with its exported file and its report, for all tests of reports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_ways import command

TRAINING = "train --model plaincnn --method qat --epochs 2 --pretrain-epochs 2 --out run"


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run/, in which model.onnx and report.html lie."""
    folder = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:  # the plot takes longer than the run
        patch.setattr("qkd_deploy.training.monitoring.recorder.plot_run", lambda folder: None)
        for line in (TRAINING, "export run/model.pt", "report run"):
            done = command(line, folder)
            assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def page(reported: Path) -> str:
    """The HTML of the report."""
    return (reported / "run" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def folder(reported: Path, tmp_path: Path) -> Path:
    """One's own copy, without the report."""
    own = Path(shutil.copytree(reported, tmp_path / "own"))
    (own / "run" / "report.html").unlink()
    return own

"""One small run with its exported file and its report, for all tests of reports."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from command_ways import Answer, command
from mutations import set_constant

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


@pytest.fixture(scope="session")
def differing(reported: Path) -> tuple[Path, Answer]:
    """The report of the same run with a file in which features.4 has other weights, and what the command said."""
    model = onnx.load(reported / "run/model.onnx")
    set_constant(model, "features.4.weight", lambda codes: -codes)
    (reported / "bad.onnx").write_bytes(model.SerializeToString())
    answer = command("report run bad.onnx --output bad.html", reported)
    return reported / "bad.html", answer


@pytest.fixture
def folder(reported: Path, tmp_path: Path) -> Path:
    """One's own copy, without the report."""
    own = Path(shutil.copytree(reported, tmp_path / "own"))
    (own / "run" / "report.html").unlink()
    return own

"""Every example runs as a reader would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS.parent / "examples"


def output_of(example: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / example), str(folder / "model.onnx")]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("example", ["own_training_loop.py", "fabric_loop.py"])
def test_loops_of_ones_own_end_verified_with_a_useful_accuracy(example: str, tmp_path: Path) -> None:
    verdict = output_of(example, tmp_path).splitlines()[-1]
    assert verdict.startswith("CONSISTENT: the file agrees with itself and with the given model (no checkpoint given)")
    accuracy = re.search(r"([\d.]+) %", verdict)
    assert accuracy is not None and float(accuracy[1]) > 90, verdict
    assert (tmp_path / "model.onnx").is_file()


def test_every_example_is_tested() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    run = re.findall(r'(?:"|\b)(\w+)(?:\.py"|:\w)', text)  # as a script, or as module:name
    assert [path.name for path in EXAMPLES.glob("*.py") if path.stem not in run] == []

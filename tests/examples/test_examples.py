"""Every example runs as a reader would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_training_loop_ends_verified_with_a_useful_accuracy(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, EXAMPLES / "own_training_loop.py", tmp_path / "model.onnx"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "Everything runs in integers." in run.stdout
    verdict = run.stdout.splitlines()[-1]
    assert verdict.startswith("VERIFIED")
    accuracy = re.search(r"([\d.]+) %", verdict)
    assert accuracy is not None and float(accuracy[1]) > 90, verdict

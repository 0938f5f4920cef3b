"""The example for ultralytics' networks, where the library is installed; and what it says where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hub_models
import numpy as np
import pytest
import timm_models
from PIL import Image
from squares import write_squares

EXAMPLE = Path(__file__).parents[2] / "examples" / "yolo.py"


def run(folder: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    places = [path, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_yolo_is_distilled_exported_verified_and_drawn(tmp_path: Path) -> None:
    if not hub_models.ultralytics_models():
        pytest.skip("ultralytics is not installed")
    write_squares(tmp_path / "squares")
    short = ("--image-size", "64", "--float-epochs", "1", "--epochs", "1", "--out", "run")
    done = run(tmp_path, "yolo:squares", *short, path=os.environ.get(timm_models.FOLDER_VARIABLE, ""))
    assert done.returncode == 0, done.stderr
    verdict = next(line for line in done.stdout.splitlines() if line.startswith("CONSISTENT"))
    assert ": 0 of " in verdict and "every kernel in integers, decoded within " in verdict
    assert "float: mAP50-95 " in done.stdout and "integer, w4a4: mAP50-95 " in done.stdout
    assert {"yolo.onnx", "yolo.decode.onnx"} < {path.name for path in (tmp_path / "run").iterdir()}
    assert np.asarray(Image.open(tmp_path / "run" / "boxes.png")).shape == (448, 896, 3)


def test_without_ultralytics_its_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "ultralytics.py").write_text("raise ImportError('not here')\n")
    done = run(tmp_path, "yolo:squares", path=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("this example needs ultralytics (")
    assert done.stderr.endswith("); install it with pip install 'qkd-deploy[yolo]'\n") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_networks_with_two_heads_are_refused_before_they_are_trained(tmp_path: Path) -> None:
    if not hub_models.ultralytics_models():
        pytest.skip("ultralytics is not installed")
    write_squares(tmp_path / "squares")
    given = ("yolo:squares", "--network", "yolov10n.yaml", "--image-size", "64")
    done = run(tmp_path, *given, path=os.environ.get(timm_models.FOLDER_VARIABLE, ""))
    assert done.returncode == 2 and "epoch" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith("yolov10n.yaml has two heads; give a network with one")

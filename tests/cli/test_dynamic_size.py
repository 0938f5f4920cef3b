"""``export --dynamic-size``, and the commands that read such a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def test_from_export_to_bench(trained: Path, warm_run: Any, tmp_path: Path) -> None:
    file = tmp_path / "open.onnx"
    done = warm_run(f"export model.pt --dynamic-size --output {file}", trained)
    assert done.code == 0 and "height and width of images are open: any numbers" in done.out
    assert "height and width of images are open" in warm_run(f"inspect {file}", trained).out
    assert json.loads(warm_run(f"inspect {file} --json", trained).out)["size_multiple"] == 1
    assert json.loads(warm_run("inspect model.onnx --json", trained).out)["size_multiple"] is None
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 12, 20), np.uint8)
    np.save(tmp_path / "images.npy", images)
    for data in ("--dataset digits --limit 200", f"--inputs {tmp_path / 'images.npy'}"):
        done = warm_run(f"verify {file} --checkpoint model.pt {data}", trained)
        assert done.code == 0 and "and 2 other sizes" in done.out
    assert warm_run(f"bench {file} --rounds 1 --against fp32 --checkpoint model.pt", trained).code == 0


def test_a_file_for_one_size_names_the_images_that_do_not_fit(trained: Path, warm_run: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((4, 1, 12, 20), np.uint8))
    done = warm_run(f"verify model.onnx --inputs {tmp_path / 'images.npy'}", trained)
    assert done.code == 2 and "4x1x12x20" in done.err

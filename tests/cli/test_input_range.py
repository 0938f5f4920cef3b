"""Greys of 12 bits from training to VERIFIED: the file says which value becomes 255, and verify reads images so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from qkd_deploy.export.metadata import read_metadata

TRAIN = "train --dataset imagefolder:greys --model plaincnn --method qat --epochs 1 --pretrain-epochs 1 --batch-size 8"
CALIBRATE = "export --calibrate imagefolder:greys --bits w8a8 --calibrate-images 8 --output c.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, warm_run: Any) -> Path:
    made = tmp_path_factory.mktemp("range")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in "ab":
            (made / "greys" / split / kind).mkdir(parents=True)
            for index in range(8):
                pixels = random.integers(0, 4096, (8, 8)).astype(np.uint16)
                Image.fromarray(pixels).save(made / "greys" / split / kind / f"{index}.png")
    refused = warm_run(f"{TRAIN} --out run", made)
    assert refused.code == 2 and "give --input-range 4095" in refused.err and not (made / "run").exists()
    trained = warm_run(f"{TRAIN} --input-range 4095 --out run", made)
    assert trained.code == 0, trained.err
    return made


def test_a_trained_network_is_exported_and_verified(folder: Path, warm_run: Any) -> None:
    for line in ("export run/model.pt", "inspect run/model.onnx", "bench run/model.onnx --rounds 1"):
        done = warm_run(line, folder)
        assert done.code == 0, done.err
    assert read_metadata(onnx.load(folder / "run" / "model.onnx")).preprocessing == {"input_range": 4095}
    done = warm_run("verify run/model.onnx --dataset imagefolder:greys --checkpoint run/model.pt", folder)
    assert done.code == 0 and "VERIFIED against run/model.pt" in done.out, done.out + done.err


def test_a_calibrated_network_is_exported_and_verified(folder: Path, warm_run: Any) -> None:
    start = "run/checkpoints/student-float.pt"
    done = warm_run(f"{CALIBRATE} --input-range 4095 {start}", folder)
    assert done.code == 0, done.err
    done = warm_run("verify c.onnx --dataset imagefolder:greys --checkpoint c.quantized.pt", folder)
    assert done.code == 0 and "VERIFIED against c.quantized.pt" in done.out, done.out + done.err


def test_another_range_is_refused_by_name(folder: Path, warm_run: Any) -> None:
    warm_run("export run/model.pt --output other.onnx", folder)
    done = warm_run("verify other.onnx --dataset imagefolder:greys --input-range 1023", folder)
    assert done.code == 2 and "above --input-range 1023 (input_range in Python); give 4095" in done.err, done.err

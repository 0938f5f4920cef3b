"""``export --calibrate --reconstruct`` as processes: better integer models that verify, also from images alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_networks import resnet8_of_two_epochs
from PIL import Image

from qkd_deploy import load_dataset
from qkd_deploy.checkpoints.checkpoint import load_checkpoint

DIGITS = load_dataset("digits")
EXPORT = "export --bits w2a4 --model resnet8 float.pt --reconstruct --json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained ResNet-8, and some of the digits as images without labels."""
    place = tmp_path_factory.mktemp("reconstruct")
    torch.save(resnet8_of_two_epochs().state_dict(), place / "float.pt")
    for part, split in (("train", DIGITS.train), ("val", DIGITS.test)):
        (place / "images" / part).mkdir(parents=True)
        for number, image in enumerate(split.images[:200, 0]):
            Image.fromarray(image.numpy()).save(place / "images" / part / f"{number:03}.png")
    return place


def calibration(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    found: dict[str, Any] = json.loads(done.out)["calibration"]
    return found


def test_the_installed_script_reconstructs_a_network_that_verifies(folder: Path, run: Any) -> None:
    done = run(f"{EXPORT} --calibrate digits --output m.onnx", folder)
    reached = calibration(done)
    assert reached["float_accuracy"] > 95
    assert reached["accuracy"] > reached["calibrated_accuracy"] + 2
    assert "reconstructing 10 layers on 512 images" in done.err
    verdict = run("verify m.onnx --dataset digits --checkpoint m.quantized.pt --require-integer", folder)
    assert verdict.code == 0 and verdict.out.strip().splitlines()[-1].startswith("VERIFIED ")
    assert load_checkpoint(folder / "m.quantized.pt").training.method == "ptq-reconstruct"


def test_images_without_labels_do(folder: Path, warm_run: Any) -> None:
    reached = calibration(warm_run(f"{EXPORT} --calibrate imagefolder:images --classes 10 --output u.onnx", folder))
    assert reached["measure"] == "agreement with full precision"
    assert reached["accuracy"] > reached["calibrated_accuracy"] + 2


def test_the_table_says_what_was_won(folder: Path, warm_run: Any) -> None:
    done = warm_run(
        f"{EXPORT.removesuffix(' --json')} --calibrate digits --calibrate-images 64 --output t.onnx", folder
    )
    assert " % before --reconstruct; " in done.out.strip().splitlines()[-2]


def test_it_belongs_to_calibrate(folder: Path, warm_run: Any) -> None:
    done = warm_run("export --reconstruct float.pt", folder)
    assert done.code == 2 and "--reconstruct belongs to --calibrate" in done.err

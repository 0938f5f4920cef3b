"""Quantized checkpoints as a start of fewer bits, and as teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import qkd_deploy as qkd
from qkd_deploy.checkpoints.checkpoint import load_checkpoint, rebuild
from qkd_deploy.checkpoints.weights import read_weights
from qkd_deploy.data import load_dataset
from qkd_deploy.training.config import make_config
from qkd_deploy.training.run import train as train_run

TRAIN = "train --dataset digits --model plaincnn --epochs 1 --json"
RATE = "--lr 1e-6"
"""A training that leaves weights where they began, but for millionths."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, warm_run: Any) -> Path:
    """A folder with eight/, a run at 8 bits."""
    place = tmp_path_factory.mktemp("quantized")
    done = warm_run(f"{TRAIN} --method qat --bits w8a8 --pretrain-epochs 4 --out eight", place)
    assert done.code == 0, done.err
    return place


def result(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def accuracy_of(path: Path) -> float:
    return load_checkpoint(path).training.accuracy


def test_from_eight_to_four_to_two_bits(folder: Path, warm_run: Any) -> None:
    four = warm_run(f"{TRAIN} --method qat --bits w4a4 --init eight/model.pt {RATE} --out four", folder)
    assert result(four)["accuracy"] > accuracy_of(folder / "eight/model.pt") - 10
    assert "pretrain" not in four.err
    assert "tensors from eight/model.pt, before rounding to w8a8\n" in four.err
    begun, ended = read_weights(folder / "eight/model.pt"), read_weights(folder / "four/model.pt")
    assert all(torch.allclose(value, ended[name], atol=1e-4) for name, value in begun.items() if "weight" in name)
    two = warm_run(f"{TRAIN} --method qat --bits w2a2 --init four/model.pt --out two", folder)
    assert result(two)["accuracy"] > 30
    assert "before rounding to w4a4\n" in two.err
    exported = warm_run("export two/model.pt", folder)
    assert exported.code == 0, exported.err
    assert warm_run("verify two/model.onnx --dataset digits --checkpoint two/model.pt", folder).code == 0


@pytest.mark.parametrize("method", ["kd", "qkd", "sqakd"])
def test_a_quantized_network_teaches_as_it_is(folder: Path, warm_run: Any, method: str) -> None:
    networks = "--init eight/model.pt --teacher plaincnn:eight/model.pt"
    done = warm_run(f"{TRAIN} --method {method} --bits w4a4 {networks} {RATE} --out {method}", folder)
    assert result(done)["teacher_accuracy"] == pytest.approx(accuracy_of(folder / "eight/model.pt"), abs=1)
    assert "plaincnn: quantized at w8a8, as eight/model.pt is\n" in done.err
    teacher = load_checkpoint(folder / method / "teacher.pt")
    assert str(teacher.quantization.bits) == "w8a8"  # type: ignore[union-attr]
    if method == "kd":  # it is frozen: the integer model is the same
        images = load_dataset("digits").test.images_at(torch.arange(16)).float() / 64 - 2
        before = rebuild(load_checkpoint(folder / "eight/model.pt"))
        assert torch.equal(qkd.freeze(rebuild(teacher))(images), qkd.freeze(before)(images))


def test_the_feature_of_a_quantized_teacher_is_not_quantized_again(folder: Path, warm_run: Any) -> None:
    line = f"{TRAIN} --bits w4a4 --init eight/model.pt --teacher plaincnn:eight/model.pt --out feature"
    done = warm_run(f"{line} --method qfd", folder)
    assert done.code == 2 and not (folder / "feature").exists()
    assert "eight/model.pt is quantized already" in done.err and "use --method kd" in done.err
    floats = line.replace("plaincnn:eight/model.pt", "plaincnn:eight/checkpoints/student-float.pt")
    assert warm_run(f"{floats} --method qfd --teacher-feature-epochs 1", folder).code == 0


def test_in_python(folder: Path, tmp_path: Path) -> None:
    start = str(folder / "eight/model.pt")
    config = make_config(
        {"dataset": "digits", "model": "plaincnn", "method": "kd", "bits": "w4a4", "epochs": 1, "init": start}
        | {"teacher": "plaincnn", "teacher_checkpoint": start}
    )
    assert train_run(config, tmp_path / "run").accuracy > 50
    images = torch.randn(8, 1, 8, 8)
    prepared = qkd.prepare(qkd.load(start).network, "w2a2", images)
    qkd.initialize(prepared, images)
    assert torch.isfinite(qkd.freeze(prepared.eval())(images)).all()

"""What sets the methods apart, shown on whole runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.distill import METHODS
from qkd_deploy.errors import UserError
from qkd_deploy.training.config import make_config
from qkd_deploy.training.monitoring.progress import NoProgress
from qkd_deploy.training.run import train

DATA = """
import torch
from qkd_deploy.data import ImageDataset, Split, load_dataset


def digits(shuffled=False):
    real = load_dataset("digits")
    train = Split(real.train.images[:400], real.train.labels[:400])
    if shuffled:
        order = torch.randperm(400, generator=torch.Generator().manual_seed(9))
        train = Split(train.images, train.labels[order])
    return ImageDataset("some digits", train, real.test.head(100), real.classes)
"""


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Path) -> dict[str, Any]:
    """Settings of short runs from given weights on 400 digits."""
    (tmp_path / "some_digits.py").write_text(DATA)
    monkeypatch.syspath_prepend(tmp_path)
    return {
        "dataset": "some_digits:digits",
        "model": "plaincnn",
        "teacher": "plaincnn",
        "teacher_checkpoint": str(start),
        "init": str(start),
        "epochs": 3,
        "batch_size": 100,
        "teacher_feature_epochs": 1,
        "delta_every": 2,
        "evaluate_every": 3,
        "threads": 1,
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full-precision weights of a plain CNN."""
    folder = tmp_path_factory.mktemp("start") / "run"
    given = {"model": "plaincnn", "method": "qat", "epochs": 1, "pretrain_epochs": 2, "threads": 1}
    train(make_config(given), folder, progress=NoProgress())
    return folder / "checkpoints/student-float.pt"


def weights(given: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(train(make_config(given), folder, progress=NoProgress()).checkpoint).state_dict


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    names = [name for name in one if not name.endswith("delta")]
    return all(torch.equal(one[name], other[name]) for name in names)


def test_six_methods_from_one_seed_end_in_six_different_weights(quick: dict[str, Any], tmp_path: Path) -> None:
    # one quantizer for all, so that it is not what sets them apart
    results = [weights({**quick, "method": m, "quantizer": "interval"}, tmp_path / m) for m in METHODS]
    assert len(results) == 6
    assert not any(same(a, b) for a, b in itertools.combinations(results, 2))


@pytest.mark.parametrize(("method", "equal"), [("sqakd", True), ("kd", False)])
def test_shuffled_labels_give_bit_identical_training_without_labels(
    quick: dict[str, Any], tmp_path: Path, method: str, equal: bool
) -> None:
    given = {**quick, "method": method}
    labelled = weights(given, tmp_path / "labelled")
    shuffled = weights({**given, "dataset_args": {"shuffled": True}}, tmp_path / "shuffled")
    assert same(labelled, shuffled) is equal


def test_the_estimated_delta_changes_training_and_zero_does_not(quick: dict[str, Any], tmp_path: Path) -> None:
    runs = {
        delta: weights({**quick, "method": "sqakd", "delta": delta}, tmp_path / delta)
        for delta in ("0", "hessian", "0.5")
    }
    assert not any(same(a, b) for a, b in itertools.combinations(runs.values(), 2))
    deltas = {
        delta: torch.stack([value for name, value in found.items() if name.endswith("delta")])
        for delta, found in runs.items()
    }
    assert (deltas["0"] == 0).all() and (deltas["0.5"] == 0.5).all() and (deltas["hessian"] > 0).any()


def test_the_student_of_sqakd_starts_from_its_teacher(quick: dict[str, Any], tmp_path: Path, start: Path) -> None:
    given = {**quick, "method": "sqakd", "lr": 1e-12, "epochs": 1}
    del given["init"]
    found = weights(given, tmp_path / "run")
    teacher = load_checkpoint(start).state_dict
    shared = [name for name in teacher if name.endswith("weight")]
    assert shared
    for name in shared:
        torch.testing.assert_close(found[f"network.{name}"], teacher[name], atol=1e-6, rtol=1e-6)


def test_sqakd_refuses_another_teacher() -> None:
    with pytest.raises(UserError, match="sqakd distils between equal networks"):
        make_config({"method": "sqakd", "model": "resnet8", "teacher": "resnet20"})
    config = make_config({"method": "sqakd", "model": "plaincnn", "init": "w.pt"})
    assert (config.teacher, config.teacher_checkpoint) == ("plaincnn", "w.pt")
    assert (config.temperature, config.quantizer, config.soft_loss) == (4.0, "ewgs", 1.0)


def test_gslr_ends_with_labels_alone(quick: dict[str, Any], tmp_path: Path) -> None:
    import json

    given = {**quick, "method": "gslr", "bits": "w2a32", "soft_loss_decay": "step"}
    train(make_config(given), tmp_path / "run", progress=NoProgress())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    soft = [line["losses"]["student"]["kl"] for line in lines]
    assert soft[0] > 0 and soft[1] > 0 and soft[2] == 0


def test_the_teacher_of_qfd_is_larger_and_its_feature_longer(quick: dict[str, Any], tmp_path: Path) -> None:
    del quick["teacher_checkpoint"]
    given = {**quick, "method": "qfd", "teacher": "resnet8", "teacher_pretrain_epochs": 1, "teacher_feature_bits": 1}
    result = train(make_config(given), tmp_path / "run", progress=NoProgress())
    assert not any("projection" in name for name in load_checkpoint(result.checkpoint).state_dict)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qkd_deploy.errors import UserError
from qkd_deploy.training.config import TrainConfig, make_config, read_config, write_config


def test_round_trip(tmp_path: Path) -> None:
    given = {
        "dataset": "cifar10",
        "data_dir": "data",
        "bits": "w2a2",
        "bits_for": {"layer3.*": "w8a8"},
        "replace": {"relu": "relu6", "layer3.*:relu": "hardswish"},
        "epochs": [3, 4, 5],
        "lr": 1,
        "method": "kd",
    }
    config = make_config(given)
    write_config(config, tmp_path / "config.toml")
    assert make_config(read_config(tmp_path / "config.toml")) == config
    assert config.lr == 1.0 and type(config.lr) is float
    assert config.epochs == (3, 4, 5)


def test_unset_paths_are_not_written(tmp_path: Path) -> None:
    write_config(make_config({}), tmp_path / "config.toml")
    text = (tmp_path / "config.toml").read_text()
    assert "data_dir" not in text and "\ninit = " not in text


def test_digits_have_their_own_defaults_with_the_ratio_of_the_paper() -> None:
    digits = make_config({})
    assert (digits.dataset, digits.model, digits.teacher) == ("digits", "resnet8", "resnet20")
    shares = [epochs / sum(digits.epochs) for epochs in digits.epochs]
    assert shares == pytest.approx([0.15, 0.5, 0.35], abs=0.03)
    assert make_config({"dataset": "cifar10"}).epochs == (30, 100, 70)
    assert make_config({"model": "plaincnn"}).model == "plaincnn"


def test_published_values_are_the_general_defaults() -> None:
    config = TrainConfig()
    assert (config.temperature, config.lr, config.momentum, config.batch_size) == (2.0, 0.01, 0.9, 128)
    assert (config.weight_step_ratio, config.activation_step_ratio, config.teacher_lr_ratio) == (0.01, 1.0, 0.1)


def test_only_methods_with_a_teacher_use_one() -> None:
    assert make_config({"method": "qkd"}).uses_teacher
    assert make_config({"method": "kd"}).uses_teacher
    assert not make_config({"method": "qat"}).uses_teacher


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batchsize": 3}, "did you mean 'batch_size'"),
        ({"zzz": 3}, "unknown setting 'zzz'; remove it"),
        ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
        ({"lr": 0}, "above 0"),
        ({"lr": -0.1}, "above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": True}, "whole number"),
        ({"batch_size": 1}, "at least 2"),
        ({"momentum": 1.0}, "at most"),
        ({"first_last_bits": 9}, "at most 8"),
        ({"placement": "integr"}, "did you mean 'integer'"),
        ({"precision": "fp16"}, "choose one of fp32, bf16"),
        ({"bits": "w4"}, "w4"),
        ({"bits": "w9a9"}, "w9a9"),
        ({"bits_for": {"fc": "four"}}, "four"),
        ({"bits_for": ["fc"]}, "must map patterns to bits"),
        ({"replace": {"silu": "rellu"}}, "did you mean 'relu'"),
        ({"replace": ["silu"]}, "must map functions to functions"),
        ({"method": "qdk"}, "did you mean 'qkd'"),
        ({"epochs": "30"}, "give one number, or one per phase"),
        ({"epochs": [1.5]}, "give one number, or one per phase"),
        ({"epochs": []}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"model": None}, "model is None; it must be text"),
    ],
)
def test_bad_settings_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        make_config(given)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"lr = = 1", "not a TOML file"), (b"\xff\xfe", "not a TOML file"), (b"batchsize = 1", "did you mean")],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_config(tmp_path / "none.toml")

"""Recipes are the settings of sweeps, can be printed, and are overridden by what a user gives."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from qkd_deploy.cli.train import command
from qkd_deploy.errors import UserError
from qkd_deploy.sweep.plan import read_plan
from qkd_deploy.training.config import make_config, read_config
from qkd_deploy.training.recipes import read_recipe, recipe_names

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SWEEPS = {
    "bccd-detector-w4a4": "bccd.toml",
    "camvid-segmenter-w4a4": "camvid.toml",
    "cifar10-resnet20-w2a2": "cifar10_converged.toml",
    "cifar10-resnet20-w4a4": "cifar10_converged.toml",
}
OF_THE_START = {"model", "teacher", "init", "teacher_checkpoint", "data_dir", "normalization"}
"""Where full-precision weights come from, and what they take."""
OTHER_METHODS = {"teacher_feature_epochs"}
PROGRESS = {"threads", "evaluate_every"}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_the_first_seed_of_a_sweep(name: str) -> None:
    recipe = make_config(read_recipe(name))
    entries = [entry.config for entry in read_plan(BENCHMARKS / SWEEPS[name]).entries]
    [swept] = [
        config
        for config in entries
        if (config.method, config.bits, config.seed, config.bits_for) == (recipe.method, recipe.bits, 0, {})
    ]
    own, others = asdict(recipe), asdict(swept)
    different = {key for key in own if own[key] != others[key]}
    pretraining = {key for key in own if "pretrain" in key}
    assert different <= OF_THE_START | OTHER_METHODS | PROGRESS | pretraining, {key: own[key] for key in different}


def test_printed_settings_are_what_a_run_of_them_trains_with(tmp_path: Path) -> None:
    printed = CliRunner().invoke(command, ["--recipe", "cifar10-resnet20-w2a2", "--epochs", "3", "--print-config"])
    assert printed.exit_code == 0, printed.output
    (tmp_path / "c.toml").write_text(printed.stdout)
    expected = make_config(read_recipe("cifar10-resnet20-w2a2") | {"epochs": 3})
    assert make_config(read_config(tmp_path / "c.toml")) == expected
    assert tomllib.loads(printed.stdout)["bits"] == "w2a2"


def test_files_and_options_override_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('method = "kd"\nepochs = 2\n')
    chosen = ["--recipe", "cifar10-resnet20-w4a4", "--config", str(tmp_path / "mine.toml"), "--lr", "0.5"]
    printed = tomllib.loads(CliRunner().invoke(command, [*chosen, "--print-config"]).stdout)
    assert (printed["method"], printed["lr"], printed["bits"], printed["compile"]) == ("kd", 0.5, "w4a4", True)


def test_unknown_recipes_get_a_suggestion() -> None:
    refused = CliRunner().invoke(command, ["--recipe", "cifar10-resnet20-w4a5"])
    assert refused.exit_code == 2 and "did you mean 'cifar10-resnet20-w4a4'?" in refused.output
    with pytest.raises(UserError, match="did you mean 'cifar10-resnet20-w4a4'"):
        read_recipe("cifar10-resnet20-w4a5")
    shown = CliRunner().invoke(command, ["--help"]).output
    assert all(name in "".join(shown.split()) for name in recipe_names())

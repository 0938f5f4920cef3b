"""Text of the command line to values, and whether the manual names every option."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pathlib import Path

import click
import pytest

from qkd_deploy.cli.main import COMMANDS
from qkd_deploy.cli.options import split_teacher
from qkd_deploy.training.config import TrainConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet20", ("resnet20", None)),
        ("resnet20:teacher.pt", ("resnet20", "teacher.pt")),
        ("resnet20:weights", ("resnet20", "weights")),
        ("resnet20:C:\\teacher.pt", ("resnet20", "C:\\teacher.pt")),
        ("own.nets:build", ("own.nets:build", None)),
        ("own.nets:build:runs/a/teacher.pt", ("own.nets:build", "runs/a/teacher.pt")),
        ("resnt20:teacher.pt", ("resnt20", "teacher.pt")),
    ],
)
def test_teacher_with_and_without_weights(text: str, expected: tuple[str, str | None]) -> None:
    assert split_teacher(text, ["resnet20", "resnet56"]) == expected


def test_every_setting_of_training_has_an_option() -> None:
    command = import_module("qkd_deploy.cli.train").command
    options = {parameter.name for parameter in command.params}
    # the teacher's weights are written behind its name
    assert {item.name for item in fields(TrainConfig)} - options == {"teacher_checkpoint"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_manual_lists_every_option(name: str) -> None:
    command = import_module(f"qkd_deploy.cli.{name}").command
    assert isinstance(command, click.Command)
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"## {name}\n")[2].partition("\n## ")[0]
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    assert options
    missing = [option for option in options if f"`{option}" not in section]
    assert not missing


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_line_of_help(name: str) -> None:
    command = import_module(f"qkd_deploy.cli.{name}").command
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)

"""Text of the command line to values, and whether the manual names every option."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import click
import pytest

from qkd_deploy.cli.main import COMMANDS, main
from qkd_deploy.cli.options import split_teacher
from qkd_deploy.errors import UserError
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


def test_the_manual_is_what_the_declarations_generate() -> None:
    script = DOCUMENT.with_name("commands_page.py")
    page = DOCUMENT.read_text(encoding="utf-8")
    assert runpy.run_path(str(script))["with_tables"](page) == page, f"run: python docs/{script.name}"


def shown(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line.split()) == 0
    return capsys.readouterr().out


def test_help_shows_ten_options_and_the_names_of_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("train --help", capsys)
    assert len(re.findall(r"^  --", text, flags=re.MULTILINE)) == 10
    words = " ".join(text.split())
    listed = "data, networks, bits, method, full- precision training, optimisation, run."
    assert f"--help-all shows all options, by group: {listed}" in words


def test_help_all_shows_every_option_under_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("train --help-all", capsys)
    command = import_module("qkd_deploy.cli.train").command
    sections = re.split(r"^(?=\S.*:$)", text, flags=re.MULTILINE)
    for group, options in command.groups().items():
        (section,) = [part for part in sections if part.lower().startswith(f"{group}:\n")]
        assert all(f"  {option.opts[0]} " in section for option in options)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", -1.0, "lr is -1.0; it must be a number above 0"),
        ("first_last_bits", 9, "first_last_bits is 9; it must be a number at least 2 and at most 8"),
        ("teacher_feature_bits", 0, "teacher_feature_bits is 0; it must be a number at least 1 and at most 8"),
        ("delta", "-1", "delta is '-1'; give a number that is not negative, or hessian"),
        ("auto_bits", "size=2MB", "the budget 'size=2MB' is not of the form KIND<=NUMBER; write size<=2MB, "),
    ],
)
def test_a_wrong_value_is_the_same_line_from_everywhere(
    name: str, value: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    file = tmp_path / "run.toml"
    file.write_text(f"{name} = {json.dumps(value)}\n")
    option = f"--{name.replace('_', '-')}"
    for arguments in (["--config", str(file)], [option, str(value)]):
        assert main(["train", "--out", str(tmp_path / "run"), *arguments]) == 2
        assert capsys.readouterr().err == f"Error: {caught.value}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "on_the_command_line"),
    [("schedule", "cosin", "'cosin' is not supported; did you mean 'cosine'?"), ("seed", 1.5, "not a valid integer")],
)
def test_words_and_types_are_refused_before_anything_runs(
    name: str, value: object, on_the_command_line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=f"^{name} is {value!r}; "):
        TrainConfig(**{name: value})  # type: ignore[arg-type]
    file = tmp_path / "run.toml"
    file.write_text(f"{name} = {json.dumps(value)}\n")
    assert main(["train", "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"Error: {name} is {value!r}; ")
    assert main(["train", f"--{name}", str(value)]) == 2
    error = capsys.readouterr().err
    assert f"--{name}" in error and on_the_command_line in error and error.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_line_of_help(name: str) -> None:
    command = import_module(f"qkd_deploy.cli.{name}").command
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)

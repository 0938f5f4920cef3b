"""``qkd-deploy train``."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.ending import Terminated
from qkd_deploy.cli.options import GroupedCommand, in_words, named, option, options_of, split_teacher
from qkd_deploy.cli.printing import command_line, echo
from qkd_deploy.cli.values import Choice
from qkd_deploy.distill.methods import METHODS, OPEN
from qkd_deploy.settings import Declaration
from qkd_deploy.training.config import TrainConfig, config_text, make_config, read_config
from qkd_deploy.training.dataset_defaults import DATASET_DEFAULTS
from qkd_deploy.training.recipes import read_recipe, recipe_names
from qkd_deploy.workflows.next_command import model_option

if TYPE_CHECKING:
    from qkd_deploy.training.run import TrainResult

_OPTIONS = [item.name for item in fields(TrainConfig) if item.name != "teacher_checkpoint"]
"""The teacher's weights are written behind its name."""

_FIRST = ("recipe", "dataset", "data_dir", "model", "teacher", "bits", "method", "epochs", "out", "resume")


def _usual(declared: Declaration) -> str:
    """A default in words, with what data sets and methods have instead."""
    others = {name: own[declared.name] for name, own in DATASET_DEFAULTS.items() if declared.name in own}
    default = declared.default
    if declared.name in OPEN:
        others |= {name: getattr(method, declared.name) for name, method in METHODS.items()}
        default = getattr(METHODS[TrainConfig.method], declared.name)
    apart = [f"{name}: {in_words(value)}" for name, value in others.items() if value != default]
    return "; ".join([in_words(default), *apart])


@click.command(cls=GroupedCommand, first=_FIRST)
@options_of(TrainConfig, only=_OPTIONS, usual=_usual)
@option(
    "--config",
    "config_file",
    type=Path,
    group="run",
    help="Settings as TOML, such as the `config.toml` of another run; options given here override them.",
)
@option(
    "--recipe",
    type=Choice(recipe_names()),
    metavar="NAME",
    group="run",
    help=f"Settings of a sweep in benchmarks/: {', '.join(recipe_names())}. --config and options given "
    "here override them.",
)
@option("--print-config", is_flag=True, group="run", help="Print all settings as TOML and end.")
@option("--out", type=Path, group="run", help="Folder of the run.", usual="runs/DATASET-MODEL-METHOD-BITS")
@option(
    "--resume",
    is_flag=True,
    group="run",
    help="Continue the run in `--out` from its last epoch, with its own settings.",
)
@option("--json", "as_json", is_flag=True, group="run", help="Print the result as JSON.")
def command(
    config_file: Path | None,
    recipe: str | None,
    print_config: bool,
    out: Path | None,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a quantized student, with or without a teacher.

    Without options it trains a small network at W4A4 on the embedded digits, in about a minute or two. Progress goes to
    stderr. The accuracy reported is that of the integer model.
    """
    from qkd_deploy.training.run import train
    from qkd_deploy.training.run_folder import config_of_run

    named_recipe = read_recipe(recipe) if recipe else {}
    given = {**named_recipe, **(read_config(config_file) if config_file else {}), **_given(options)}
    if print_config:
        echo(config_text(make_config(given)).rstrip("\n"))
        return
    folder = out or _default_folder(make_config(given))
    if resume:
        given = {**asdict(config_of_run(folder)), **given}
    config = make_config(given)
    try:
        result = train(config, folder, resume=resume, command=command_line())
    except (KeyboardInterrupt, Terminated):
        if (folder / "config.toml").exists():
            echo(f"continue with: qkd-deploy train --out {shlex.quote(str(folder))} --resume", err=True)
        raise
    if os.environ.get("RANK", "0") == "0":  # under torchrun the first process speaks for all
        _print(result, config, as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user named."""
    given = named(options)
    if "teacher" in given:
        from qkd_deploy.models import model_names

        given["teacher"], weights = split_teacher(given["teacher"], model_names())
        if weights is not None:
            given["teacher_checkpoint"] = weights
    return given


def _default_folder(config: TrainConfig) -> Path:
    name = f"{config.dataset}-{config.model}-{config.method}-{config.bits}"
    return Path("runs", re.sub(r"[^\w.-]", "-", name))


def _print(result: TrainResult, config: TrainConfig, as_json: bool) -> None:
    with_teacher = (result.folder / "teacher.pt").exists()
    table = {
        "checkpoint": str(result.checkpoint),
        "accuracy": result.accuracy,
        "measure": result.measure,
        "figures": dict(result.figures),
        "images": result.images,
        "teacher": str(result.folder / "teacher.pt") if with_teacher else None,
        "teacher_accuracy": result.teacher_accuracy,
        "settings": asdict(config),
    }
    if as_json:
        echo(json.dumps(table, indent=2))
        return
    echo(f"student   {result.checkpoint}")
    if with_teacher:
        reached = "" if result.teacher_accuracy is None else f"  ({result.teacher_accuracy:.2f} % in full precision)"
        echo(f"teacher   {table['teacher']}{reached}")
    echo(f"settings  {result.folder / 'config.toml'}")
    kind = result.measure if result.student.account.floats else f"integer {result.measure}"
    further = "".join(f", {name} {value:.2f} %" for name, value in list(result.figures.items())[1:])
    echo(f"{kind} {result.accuracy:.2f} %{further} on {result.images} held-out images ({config.bits})")
    words = ["export", "--bits", config.bits, *model_option(config.model), str(result.checkpoint)]
    echo(f"next: {shlex.join(['qkd-deploy', *words])}")

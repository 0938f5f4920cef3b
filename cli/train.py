"""``qkd-deploy train``."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.options import Choice, Epochs, Override, split_teacher

if TYPE_CHECKING:
    from qkd_deploy.training.config import TrainConfig
    from qkd_deploy.training.run import TrainResult

# Every option is a setting of the same name in TrainConfig; one that is not given leaves the setting alone.
_SETTINGS: dict[str, tuple[Any, str]] = {
    "dataset": (str, "digits (embedded), cifar10, cifar100 or package.module:factory."),
    "data_dir": (str, "Folder that holds the data set."),
    "model": (str, "The student: a known network or package.module:factory."),
    "teacher": (str, "The teacher, and optionally its weights: NAME[:FILE]."),
    "init": (str, "Full-precision weights that the student starts from; without, they are pre-trained."),
    "bits": (str, "Bits of weights and activations, such as w4a4 or w2a32."),
    "bits_for": (Override(), "Other bits for layers whose path matches; may be repeated."),
    "placement": (Choice(["integer", "paper"]), "Where tensors are quantized."),
    "residual": (Choice(["wide", "shared"]), "Residual sums at 8 bits, or at the bits of their readers."),
    "first_last_bits": (int, "Bits of the first and the last layer."),
    "weight_range": (Choice(["narrow", "full"]), "Symmetric weight codes, or all that fit."),
    "step_initialization": (Choice(["mse", "lsq", "minmax"]), "How quantization steps start."),
    "method": (str, "qkd (three phases), kd (fixed teacher) or qat (labels only)."),
    "epochs": (Epochs(), "Epochs in all, or one number per phase."),
    "pretrain_epochs": (int, "Epochs of the student's full-precision training."),
    "teacher_pretrain_epochs": (int, "Epochs of the teacher's full-precision training."),
    "pretrain_lr": (float, "Highest learning rate of full-precision training."),
    "pretrain_weight_decay": (float, "Weight decay of full-precision training."),
    "batch_size": (int, "Images per batch."),
    "lr": (float, "Learning rate of the student's weights."),
    "momentum": (float, "Momentum of SGD."),
    "weight_decay": (float, "Weight decay."),
    "teacher_lr_ratio": (float, "The teacher's learning rate over the student's, where both learn."),
    "weight_step_ratio": (float, "Relative movement of weight steps over the learning rate."),
    "activation_step_ratio": (float, "Relative movement of activation steps over the learning rate."),
    "temperature": (float, "Temperature of the distillation loss."),
    "seed": (int, "Decides initial weights, order of images and augmentation."),
    "threads": (int, "CPU threads; 0 leaves the choice to torch. Results repeat exactly for equal numbers."),
    "device": (str, "auto, cpu, cuda or another of torch's devices."),
    "precision": (Choice(["fp32", "bf16"]), "Arithmetic of training; quantizers stay in fp32."),
    "compile": (bool, "Compile the networks: faster on long runs, needs a C++ compiler."),
    "evaluate_every": (int, "Epochs between two measurements of held-out accuracy."),
    "evaluate_limit": (int, "Images of those measurements; 0 takes all. The final one always takes all."),
}


def _options(command: Any) -> Any:
    for name, (kind, text) in reversed(_SETTINGS.items()):
        option = f"--{name.replace('_', '-')}"
        if kind is bool:
            option += f"/--no-{name.replace('_', '-')}"
        command = click.option(option, name, type=kind, multiple=isinstance(kind, Override), default=None, help=text)(
            command
        )
    return command


@click.command()
@_options
@click.option("--config", "config_file", type=Path, help="Settings as TOML; options given here override them.")
@click.option("--out", type=Path, help="Folder of the run; runs/DATASET-MODEL-METHOD-BITS by default.")
@click.option("--resume", is_flag=True, help="Continue the run in --out from its last epoch.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(config_file: Path | None, out: Path | None, resume: bool, as_json: bool, **options: Any) -> None:
    """Train a quantized student, with or without a teacher.

    Without options it trains a small network at W4A4 on the embedded digits, in about a minute or two. Progress goes to
    stderr. The accuracy reported is that of the integer model.
    """
    from qkd_deploy.training.config import make_config, read_config
    from qkd_deploy.training.run import train
    from qkd_deploy.training.run_folder import config_of_run

    given = {**(read_config(config_file) if config_file else {}), **_given(options)}
    folder = out or _default_folder(make_config(given))
    if resume:
        given = {**asdict(config_of_run(folder)), **given}
    config = make_config(given)
    _print(train(config, folder, resume=resume), config, as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user named."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "bits_for" in given:
        given["bits_for"] = dict(given["bits_for"])
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
    with_teacher = result.teacher_accuracy is not None
    table = {
        "checkpoint": str(result.checkpoint),
        "accuracy": result.accuracy,
        "images": result.images,
        "teacher": str(result.folder / "teacher.pt") if with_teacher else None,
        "teacher_accuracy": result.teacher_accuracy,
        "settings": asdict(config),
    }
    if as_json:
        click.echo(json.dumps(table, indent=2))
        return
    click.echo(f"student   {result.checkpoint}")
    if with_teacher:
        click.echo(f"teacher   {table['teacher']}  ({result.teacher_accuracy:.2f} % in full precision)")
    click.echo(f"settings  {result.folder / 'config.toml'}")
    kind = "accuracy" if result.student.account.floats else "integer accuracy"
    click.echo(f"{kind} {result.accuracy:.2f} % on {result.images} held-out images ({config.bits})")
    click.echo(f"next: qkd-deploy export --bits {config.bits} {shlex.quote(str(result.checkpoint))}")

"""``qkd-deploy train``."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.main import Terminated
from qkd_deploy.cli.options import Argument, Choice, Epochs, Names, Override, split_teacher

if TYPE_CHECKING:
    from qkd_deploy.training.config import TrainConfig
    from qkd_deploy.training.run import TrainResult

# Every option is a setting of the same name in TrainConfig; one that is not given leaves the setting alone.
_SETTINGS: dict[str, tuple[Any, str]] = {
    "dataset": (
        str,
        "digits (embedded), cifar10, cifar100, tiny-imagenet, imagefolder:PATH, FILE.npz, hf:NAME or "
        "package.module:factory.",
    ),
    "data_dir": (str, "Folder that holds the data set."),
    "dataset_args": (Argument(), "Keyword argument of your data set factory; may be repeated."),
    "image_size": (int, "Bring images of a folder to this height and width; 0 keeps the data's own."),
    "classes": (int, "Number of classes, where unlabelled data do not tell."),
    "augmentation": (Choice(["auto", "none", "crop", "imagenet", "randaugment"]), "What training does to images."),
    "mixup": (float, "Mix pairs of images by mixup with this Beta parameter; 0 does not."),
    "cutmix": (float, "Mix pairs of images by CutMix with this Beta parameter; 0 does not."),
    "workers": (int, "Processes that decode images of sets too big for memory."),
    "strict": (bool, "Stop at a corrupt image instead of skipping it."),
    "model": (str, "The student: a known network or package.module:factory."),
    "model_args": (Argument(), "Keyword argument of the student's factory; may be repeated."),
    "teacher": (str, "The teacher, and optionally its weights: NAME[:FILE]."),
    "teacher_args": (Argument(), "Keyword argument of the teacher's factory; may be repeated."),
    "init": (str, "Full-precision weights that the student starts from; without, they are pre-trained."),
    "init_skip": (Names(), "Modules or entries of --init to leave at random, such as a head of other classes."),
    "bits": (str, "Bits of weights and activations, such as w4a4 or w2a32."),
    "bits_for": (Override(), "Other bits for layers whose path matches; may be repeated."),
    "auto_bits": (str, "Choose bits for each layer under a budget, such as 'size<=2MB' or 'bitops<=50%'."),
    "auto_bits_from": (Names(), "Bits to choose from (w8a8,w4a4,w2a4)."),
    "placement": (Choice(["integer", "paper"]), "Where tensors are quantized."),
    "residual": (Choice(["wide", "shared"]), "Residual sums at 8 bits, or at the bits of their readers."),
    "first_last_bits": (int, "Bits of the first and the last layer."),
    "weight_range": (Choice(["narrow", "full"]), "Symmetric weight codes, or all that fit."),
    "quantizer": (Choice(["interval", "lsq", "pact", "dorefa", "ewgs", "qil"]), "How tensors learn to be quantized."),
    "step_initialization": (Choice(["auto", "mse", "percentile", "lsq", "minmax"]), "How quantization steps start."),
    "delta": (str, "Of ewgs: a number, or hessian to estimate it from the Hessian's trace."),
    "delta_every": (int, "Epochs between two such estimates."),
    "method": (
        str,
        "qkd (three phases), sqakd (label-free), gslr (decreasing soft loss), qfd (quantized features), "
        "kd (fixed teacher) or qat (labels only).",
    ),
    "phases": (Names(), "Only these phases of the method, such as self-study,tutor."),
    "epochs": (Epochs(), "Epochs in all, or one number per phase."),
    "pretrain_epochs": (int, "Epochs of the student's full-precision training."),
    "teacher_pretrain_epochs": (int, "Epochs of the teacher's full-precision training."),
    "pretrain_optimizer": (Choice(["sgd", "adamw", "adam"]), "Optimizer of full-precision training."),
    "pretrain_lr": (float, "Highest learning rate of full-precision training."),
    "pretrain_weight_decay": (float, "Weight decay of full-precision training."),
    "batch_size": (int, "Images per step, over all processes."),
    "accumulate": (int, "Parts that a batch is processed in, to save memory."),
    "optimizer": (Choice(["sgd", "adamw", "adam"]), "Optimizer of the weights."),
    "lr": (float, "Learning rate of the student's weights."),
    "schedule": (Choice(["cosine", "step", "constant"]), "How the learning rate changes."),
    "warmup_epochs": (float, "Epochs in which the learning rate rises from 0."),
    "momentum": (float, "Momentum of SGD."),
    "weight_decay": (float, "Weight decay."),
    "clip_norm": (float, "Largest norm of the weights' gradient; 0 does not clip."),
    "label_smoothing": (float, "Share of a label's probability that is spread over all classes."),
    "ema": (float, "Evaluate and save a moving average of the student with this decay per step; 0 does not."),
    "bn_batches": (int, "Estimate batch norms anew from so many batches at the end."),
    "teacher_lr_ratio": (float, "The teacher's learning rate over the student's, where both learn."),
    "weight_step_ratio": (float, "Relative movement of weight steps over the learning rate."),
    "activation_step_ratio": (float, "Relative movement of activation steps over the learning rate."),
    "temperature": (float, "Temperature of the distillation loss."),
    "soft_loss": (float, "Weight of the distillation term of gslr (at its start) and sqakd."),
    "soft_loss_decay": (Choice(["linear", "cosine", "step"]), "How gslr's weight decreases."),
    "feature_weight": (float, "Weight of qfd's feature term."),
    "teacher_feature_bits": (int, "Bits of the teacher's feature in qfd."),
    "teacher_feature_epochs": (int, "Epochs in which qfd's teacher learns with that feature."),
    "feature_point": (str, "Module whose output is qfd's feature; the input of the last layer by default."),
    "teacher_feature_point": (str, "The same for the teacher, where it differs."),
    "seed": (int, "Decides initial weights, order of images and augmentation."),
    "threads": (int, "CPU threads; 0 leaves the choice to torch. Results repeat exactly for equal numbers."),
    "device": (str, "auto, cpu, cuda or another of torch's devices."),
    "precision": (Choice(["fp32", "bf16"]), "Arithmetic of training; quantizers stay in fp32."),
    "channels_last": (bool, "The memory format that convolutions are fastest in."),
    "compile": (bool, "Compile the networks: faster on long runs, needs a C++ compiler."),
    "sync_batch_norm": (bool, "Batch statistics over all processes (GPUs only)."),
    "evaluate_every": (int, "Epochs between two measurements of held-out accuracy."),
    "evaluate_limit": (int, "Images of those measurements; 0 takes all. The final one always takes all."),
}
_REPEATED = (Override, Argument)


def _options(command: Any) -> Any:
    for name, (kind, text) in reversed(_SETTINGS.items()):
        # an option that is repeated gives one argument at a time
        option = f"--{name.replace('_', '-')}".replace("-args", "-arg")
        if kind is bool:
            option += f"/--no-{name.replace('_', '-')}"
        repeated = isinstance(kind, _REPEATED)
        command = click.option(option, name, type=kind, multiple=repeated, default=None, help=text)(command)
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
    try:
        result = train(config, folder, resume=resume)
    except (KeyboardInterrupt, Terminated):
        if (folder / "config.toml").exists():
            click.echo(f"continue with: qkd-deploy train --out {shlex.quote(str(folder))} --resume", err=True)
        raise
    if os.environ.get("RANK", "0") == "0":  # under torchrun the first process speaks for all
        _print(result, config, as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user named."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in ("bits_for", "model_args", "teacher_args", "dataset_args"):
        if name in given:
            given[name] = dict(given[name])
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
        reached = "" if result.teacher_accuracy is None else f"  ({result.teacher_accuracy:.2f} % in full precision)"
        click.echo(f"teacher   {table['teacher']}{reached}")
    click.echo(f"settings  {result.folder / 'config.toml'}")
    kind = result.measure if result.student.account.floats else f"integer {result.measure}"
    click.echo(f"{kind} {result.accuracy:.2f} % on {result.images} held-out images ({config.bits})")
    click.echo(f"next: qkd-deploy export --bits {config.bits} {shlex.quote(str(result.checkpoint))}")

"""``qkd-deploy report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from qkd_deploy.cli.options import GroupedCommand, named, option, options_of
from qkd_deploy.cli.printing import command_line, echo
from qkd_deploy.settings import LARGEST
from qkd_deploy.training.groups import DataSource

_DATA = ("dataset", "task", "data_dir", "dataset_args", "workers")


@click.command(cls=GroupedCommand)
@click.argument("folder", type=Path, metavar="RUN")
@click.argument("file", type=Path, metavar="[MODEL.ONNX]", required=False)
@option("--output", type=Path, usual="RUN/report.html", help="The file to write.")
@option("--model", help="Your own network, `package.module:factory`, where the checkpoint holds one.")
@option(
    "--limit",
    type=click.IntRange(1, LARGEST),
    default=1000,
    help="Held-out images on which predictions are compared, at most.",
)
@options_of(DataSource, only=_DATA, usual=lambda declared: "the run's")
def command(folder: Path, file: Path | None, output: Path | None, model: str | None, limit: int, **options: Any) -> int:
    """Write all about a run into one HTML file, for people.

    Losses and scales over time, codes and noise of every layer, the outcome of verify, kernels, time and size by
    layer, and what stays in float. RUN is the folder of a training run, finished or not. MODEL.ONNX is the file that
    was exported from it, by default RUN/model.onnx. The HTML needs no network and holds no script. The exit code is 1
    where the file differs from what was trained.
    """
    from qkd_deploy.report.write import write_report

    written = write_report(
        folder,
        file,
        output,
        model=model,
        data=named(options),
        limit=limit,
        command=command_line(),
        tell=(lambda text: echo(text, err=True)) if sys.stderr.isatty() else (lambda text: None),
    )
    verification = written.findings.verification
    for gap in written.findings.gaps.values():
        echo(f"note: {gap.what}", err=True)
    echo(f"report    {written.path}")
    return 1 if verification is not None and not verification.passed else 0

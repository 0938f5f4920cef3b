"""``qkd-deploy handoff``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from qkd_deploy.cli.options import GroupedCommand, image_options, named, option, require_checkpoint_of
from qkd_deploy.cli.printing import echo
from qkd_deploy.cli.values import TargetName
from qkd_deploy.settings import LARGEST
from qkd_deploy.training.groups import DataSource


@click.command(cls=GroupedCommand)
@click.argument("file", type=Path, metavar="MODEL.ONNX")
@option("--out", type=Path, required=True, help="The folder to write; an earlier bundle in it is replaced.")
@option(
    "--target",
    type=TargetName(),
    usual="what the file is for",
    help="The runtime that the file has to be for.",
)
@option(
    "--checkpoint",
    type=Path,
    help="The `model.pt` that the file was exported from; without it, the model is only CONSISTENT.",
)
@option("--model", help="Your own network, `package.module:factory`, where the checkpoint holds one.")
@option("--licence", usual="not stated", help="The model's licence, for its card.")
@option("--sign", type=Path, metavar="KEY.PEM", help="Sign the bundle with this private key of ed25519.")
@image_options(DataSource)
@option(
    "--images", type=click.IntRange(1, 1000), group="data", default=8, help="Held-out images that become golden inputs."
)
@option("--limit", type=click.IntRange(1, LARGEST), group="data", usual="all", help="Verify on the first images only.")
def command(
    file: Path,
    out: Path,
    target: str | None,
    checkpoint: Path | None,
    model: str | None,
    licence: str | None,
    sign: Path | None,
    images: int,
    limit: int | None,
    **options: Any,
) -> int:
    """Pack a model for the application team, with a check for the device.

    The folder holds the model, labels, pre-processing as data and as snippets, golden inputs with their output codes, a
    model card, and check.py, which replays the golden inputs on a device. The file is verified first; where that fails,
    nothing is written and the exit code is 1.
    """
    require_checkpoint_of(model, checkpoint)
    given = named(options)
    if "dataset" not in given and (limit is not None or given.keys() - {"workers"}):
        raise click.UsageError("--limit and the options of data belong to a data set; give --dataset too")
    from qkd_deploy.gate.onnx_file import read_exported
    from qkd_deploy.workflows.handoff import hand_over
    from qkd_deploy.workflows.images import images_for_file
    from qkd_deploy.workflows.targets import read_subject

    subject = read_subject(file, target) or read_exported(file)
    data = images_for_file(subject, given) if "dataset" in given else None
    done = hand_over(
        subject,
        out,
        data=data,
        images=images,
        limit=limit,
        checkpoint=checkpoint,
        model=model,
        licence=licence or "",
        key=sign,
    )
    for note in data.notes if data is not None else ():
        echo(f"note: {note}", err=True)
    echo(done.report.verdict)
    if not done.files:
        echo("nothing was written, as the model did not pass", err=True)
        return 1
    size = sum(done.files.values())
    echo(f"wrote {out}: {len(done.files)} files, {size / 1000:,.1f} kB{', signed' if sign is not None else ''}")
    echo(f"next: on the device, {shlex.join(['python3', str(out / 'check.py')])}")
    return 0

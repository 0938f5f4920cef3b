"""``qkd-deploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.options import Argument, Choice, Points

if TYPE_CHECKING:
    from qkd_deploy.verification.report import VerificationReport


@click.command()
@click.argument("file", type=Path, metavar="MODEL.ONNX")
@click.option(
    "--dataset",
    help="digits, cifar10, cifar100, tiny-imagenet, imagefolder:PATH, FILE.npz, hf:NAME or package.module:factory.",
)
@click.option("--data-dir", type=Path, help="Folder that holds the data set.")
@click.option("--dataset-arg", "dataset_args", type=Argument(), multiple=True, help="Argument of the factory.")
@click.option("--image-size", type=click.IntRange(min=0), default=0, help="Bring images to this size (the data's own).")
@click.option("--workers", type=click.IntRange(min=0), default=2, help="Processes that decode image files (2).")
@click.option("--strict", is_flag=True, help="An image file that cannot be read is an error.")
@click.option("--inputs", type=Path, help="Instead of a data set: a .npy array, or .npz with one array per input.")
@click.option("--checkpoint", type=Path, help="The model.pt that the file was exported from.")
@click.option("--model", help="Your own network, package.module:factory, where the checkpoint holds one.")
@click.option("--split", type=Choice(["test", "train"]), help="Part of the data set (test).")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first images.")
@click.option(
    "--tolerance",
    type=Points(min=0),
    default=0.1,
    help="Points of accuracy by which the float preview may differ from the integer model (0.1).",
)
@click.option("--require-integer", is_flag=True, help="Fail if ONNX Runtime computes anything in float.")
@click.option("--json", "json_file", help="Write the report as JSON to this file, or to stdout (-).")
def command(
    file: Path,
    dataset: str | None,
    data_dir: Path | None,
    dataset_args: tuple[tuple[str, Any], ...],
    image_size: int,
    workers: int,
    strict: bool,
    inputs: Path | None,
    checkpoint: Path | None,
    model: str | None,
    split: str | None,
    limit: int | None,
    tolerance: float,
    require_integer: bool,
    json_file: str | None,
) -> int:
    """Prove that an ONNX file computes what was trained.

    The last line begins with VERIFIED (exit code 0) or FAILED (1). With --json - stdout holds the JSON alone, and the
    table goes to stderr.
    """
    if model is not None and checkpoint is None:
        raise click.UsageError("--model says which network --checkpoint holds; give --checkpoint too")
    if dataset is None and (split is not None or data_dir is not None or dataset_args or image_size or strict):
        named = "--split, --data-dir, --dataset-arg, --image-size and --strict"
        raise click.UsageError(f"{named} belong to a data set; give --dataset too")
    if dataset is None and inputs is None and limit is not None:
        raise click.UsageError("--limit counts images; give --dataset or --inputs too")
    from qkd_deploy.data import load_dataset
    from qkd_deploy.data.sets.arrays import read_arrays
    from qkd_deploy.export.metadata import read_metadata
    from qkd_deploy.verification.load import load_model
    from qkd_deploy.workflows.export import verify_deployed

    data = None
    if dataset is not None:
        classes = len(read_metadata(load_model(file)).classes or ())
        args = dict(dataset_args)
        data = load_dataset(
            dataset, data_dir, image_size=image_size, workers=workers, strict=strict, classes=classes, args=args
        )
    report = verify_deployed(
        file,
        checkpoint=checkpoint,
        model=model,
        data=data,
        inputs=None if inputs is None else read_arrays(inputs),
        split=split or "test",
        limit=limit,
        tolerance=tolerance,
        require_integer=require_integer,
    )
    for note in data.notes if data is not None else ():
        click.echo(f"note: {note}", err=True)
    _print(report, json_file)
    return 0 if report.passed else 1


def _print(report: VerificationReport, json_file: str | None) -> None:
    from qkd_deploy.atomic import atomic_write
    from qkd_deploy.cli.tables import console

    if json_file not in (None, "-"):
        with atomic_write(Path(str(json_file))) as temporary:
            temporary.write_text(report.to_json() + "\n", encoding="utf-8")
    report.render(console(stderr=json_file == "-"))
    if json_file == "-":
        click.echo(report.to_json())

"""``qkd-deploy export``."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.options import Argument, Choice, Names, Override

if TYPE_CHECKING:
    from qkd_deploy.export.onnx_export import ExportReport
    from qkd_deploy.mixed_precision.search import Choice as BitsChoice
    from qkd_deploy.workflows.post_training import CalibratedExport

# What only --calibrate needs. All but two are settings of TrainConfig.
_CALIBRATION: dict[str, tuple[str, Any, str]] = {
    "--data-dir": ("data_dir", str, "Folder that holds the data set."),
    "--dataset-arg": ("dataset_args", Argument(), "Keyword argument of your data set factory; may be repeated."),
    "--image-size": ("image_size", int, "Bring images of a folder to this height and width."),
    "--classes": ("classes", int, "Number of classes, where unlabelled data do not tell."),
    "--calibrate-images": ("images", click.IntRange(min=1), "Training images to calibrate on (512)."),
    "--calibrate-method": (
        "step_initialization",
        Choice(["mse", "percentile", "minmax", "lsq"]),
        "How steps are chosen (mse).",
    ),
    "--calibrate-batch-norm": ("batch_norm", bool, "Estimate batch norms anew: pays at 4 bits and fewer."),
    "--model-arg": ("model_args", Argument(), "Keyword argument of your network's factory; may be repeated."),
    "--bits-for": ("bits_for", Override(), "Other bits for layers whose path matches; may be repeated."),
    "--auto-bits": ("auto_bits", str, "Choose bits for each layer under a budget, 'size<=2MB' or 'bitops<=50%'."),
    "--auto-bits-from": ("auto_bits_from", Names(), "Bits to choose from (w8a8,w4a4,w2a4)."),
    "--placement": ("placement", Choice(["integer", "paper"]), "Where tensors are quantized (integer)."),
    "--residual": ("residual", Choice(["wide", "shared"]), "Residual sums at 8 bits, or at their readers' (wide)."),
    "--first-last-bits": ("first_last_bits", int, "Bits of the first and the last layer (8)."),
    "--weight-range": ("weight_range", Choice(["narrow", "full"]), "Symmetric weight codes, or all that fit (narrow)."),
}


def _calibration_options(command: Any) -> Any:
    for option, (name, kind, text) in reversed(_CALIBRATION.items()):
        repeated = isinstance(kind, (Argument, Override))
        text = f"With --calibrate: {text[0].lower()}{text[1:]}"
        form: dict[str, Any] = {"is_flag": True} if kind is bool else {"type": kind, "multiple": repeated}
        command = click.option(option, name, **form, default=None, help=text)(command)
    return command


@click.command()
@click.argument("checkpoint", type=Path, metavar="MODEL.PT")
@click.option("--bits", help="The bits that the checkpoint must be trained at; with --calibrate, those to quantize to.")
@click.option("--output", type=Path, help="The file to write; beside the checkpoint, with suffix .onnx, by default.")
@click.option("--model", help="Your own network, package.module:factory; with --calibrate, the network of the weights.")
@click.option("--target", type=Choice(["ort"]), default="ort", help="The runtime: ort (ONNX Runtime).")
@click.option("--weights", type=Choice(["int8", "packed"]), default="int8", help="int8, or packed INT4 and INT2.")
@click.option(
    "--input",
    "input_type",
    type=Choice(["float32", "uint8"]),
    default="float32",
    help="Normalised float32 images, or raw uint8 pixels.",
)
@click.option("--calibrate", metavar="DATASET", help="Quantize full-precision weights on images of this data set.")
@_calibration_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    checkpoint: Path,
    bits: str | None,
    output: Path | None,
    model: str | None,
    target: str,
    weights: str,
    input_type: str,
    calibrate: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a trained model as an integer ONNX file.

    The file is run in ONNX Runtime before it is written. A table says for each layer which bits, scales and kernel it
    has. With --calibrate DATASET, MODEL.PT holds full-precision weights: they are quantized without training, and the
    quantized checkpoint is written beside the file, with suffix .quantized.pt.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    form: dict[str, Any] = {"weights": weights, "input": input_type}
    if calibrate is None:
        for option, (name, _, _) in _CALIBRATION.items():
            if name in given:
                raise click.UsageError(f"{option} belongs to --calibrate; give --calibrate DATASET too")
        from qkd_deploy.workflows.export import export_checkpoint

        _print(export_checkpoint(checkpoint, output, bits=bits, model=model, **form), target, as_json)
        return
    if bits is None and "auto_bits" not in given:
        raise click.UsageError("--calibrate quantizes weights; say to which bits, such as --bits w8a8")
    from qkd_deploy.workflows.post_training import export_calibrated

    form |= {name: given.pop(name) for name in ("images", "batch_norm") if name in given}
    named = {"bits": bits, "model": model}
    settings = {**_tables(given), "dataset": calibrate, **{name: value for name, value in named.items() if value}}
    done = export_calibrated(
        checkpoint, output, settings=settings, progress=lambda line: click.echo(line, err=True), **form
    )
    _print(done.report, target, as_json, done)
    if not as_json:
        data = {
            "--dataset": calibrate,
            "--data-dir": settings.get("data_dir"),
            "--image-size": settings.get("image_size"),
            "--checkpoint": done.checkpoint,
        }
        words = [word for option, value in data.items() if value is not None for word in (option, str(value))]
        click.echo(f"next: {shlex.join(['qkd-deploy', 'verify', str(done.report.path), *words])}")


def _tables(given: dict[str, Any]) -> dict[str, Any]:
    """The settings, with repeated options as tables."""
    tables = ("bits_for", "model_args", "dataset_args")
    return {name: dict(value) if name in tables else value for name, value in given.items()}


def _print(report: ExportReport, target: str, as_json: bool, calibrated: CalibratedExport | None = None) -> None:
    from qkd_deploy.cli.tables import layer_table, print_tables
    from qkd_deploy.workflows.inspect import inspect_onnx

    written = inspect_onnx(report.path, build=False)
    if as_json:
        table = {"path": str(report.path), "target": target, "requires_onnxruntime": report.requires or None}
        extra = {} if calibrated is None else {"calibration": _calibration(calibrated)}
        click.echo(json.dumps({**table, **written.as_dict(), **extra}, indent=2))
        return
    print_tables(layer_table(written))
    needs = f"; needs ONNX Runtime {report.requires} or newer" if report.requires else ""
    click.echo(f"wrote {report.path} ({written.bits}, {report.size / 1000:,.1f} kB{needs})")
    if calibrated is not None:
        click.echo(f"wrote {calibrated.checkpoint} (the quantized checkpoint)")
        if calibrated.choice is not None:
            _print_choice(calibrated.choice, calibrated.bits)
        before = calibrated.float_accuracy
        click.echo(
            f"integer {calibrated.measure} {calibrated.accuracy:.2f} % on {calibrated.images} held-out images of "
            f"{calibrated.dataset}" + ("" if before is None else f"; {before:.2f} % in full precision")
        )


def _print_choice(choice: BitsChoice, base: str) -> None:
    """The choice, and how to repeat it by hand."""
    click.echo(f"{choice.in_words()}; the same by hand: {shlex.join(choice.options(base))}")


def _calibration(done: CalibratedExport) -> dict[str, Any]:
    return {
        "auto_bits": None if done.choice is None else asdict(done.choice),
        "checkpoint": str(done.checkpoint),
        "dataset": done.dataset,
        "images": done.images,
        "measure": done.measure,
        "accuracy": done.accuracy,
        "float_accuracy": done.float_accuracy,
    }

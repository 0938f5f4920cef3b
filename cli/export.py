"""``qkd-deploy export``."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.options import GroupedCommand, named, option, options_of, refuse_without
from qkd_deploy.cli.printing import echo
from qkd_deploy.cli.targets import onnx_beside, refuse_for_target, write_for_target
from qkd_deploy.cli.values import Choice, Points, TargetName
from qkd_deploy.export.settings import INPUTS, OPSETS, ORT, TAILS, WEIGHTS
from qkd_deploy.graph.replacements import replaced_in_words
from qkd_deploy.workflows.settings import PostTraining

if TYPE_CHECKING:
    from qkd_deploy.export.onnx_export import ExportReport
    from qkd_deploy.mixed_precision.search import Choice as BitsChoice
    from qkd_deploy.workflows.post_training import CalibratedExport

_CALIBRATE = "with --calibrate"
_RENAMED = {
    "images": "--calibrate-images",
    "step_initialization": "--calibrate-method",
    "batch_norm": "--calibrate-batch-norm",
    "correction": "--calibrate-correction/--no-calibrate-correction",
}
_NAMED_APART = ("dataset", "bits", "model", "workers")
"""Settings of ``PostTraining`` that --calibrate, --bits and --model give, or that does not pay for few images."""

_SETTINGS = [item.name for item in fields(PostTraining) if item.name not in _NAMED_APART]


@click.command(cls=GroupedCommand)
@click.argument("checkpoint", type=Path, metavar="MODEL.PT")
@option(
    "--bits",
    usual="the checkpoint's",
    help="The bits that the checkpoint must be trained at; with `--calibrate`, those to quantize to: required, unless "
    "`--auto-bits` is given, which takes the first of `--auto-bits-from`.",
)
@option("--output", type=Path, help="The file to write.", usual="beside the checkpoint, with the target's suffix")
@option(
    "--model",
    help="Your own network, `package.module:factory`; with `--calibrate`, the network of the weights.",
)
@option(
    "--target",
    type=TargetName(),
    default="ort",
    help="The runtime that the file is for: `ort` (ONNX Runtime), `ort-mobile` (its `.ort` format), `openvino`, "
    "`litert`, `qnn`, or what another package registers. The file is run there before it is written.",
)
@option(
    "--weights",
    type=Choice(WEIGHTS),
    default="int8",
    help="`int8`, or `packed` (INT4 and INT2: smaller file, newer ONNX Runtime, same codes and speed).",
)
@option(
    "--input",
    "input_type",
    type=Choice(INPUTS),
    default="float32",
    help="`float32` (normalised images) or `uint8` (raw pixels).",
)
@option(
    "--dynamic-size",
    is_flag=True,
    help="Leave height and width of the images open, too, where the network computes the same at all of them.",
)
@option(
    "--tail",
    type=Choice(TAILS),
    default="separate",
    help="Where decoding behind the last integer kernels goes (a detector's anchors, distributions over bins, boxes): "
    "`separate`, a float file NAME.decode.onnx that takes what NAME.onnx gives; `inside`, NAME.onnx itself; `none`, "
    "nowhere, so that it is left to you. Networks that do not decode are written alike.",
)
@option(
    "--opset",
    type=click.IntRange(OPSETS[0], OPSETS[-1]),
    usual=f"{OPSETS[-1]}, or what packed weights need",
    help="ONNX's operator set, for older runtimes: the same codes where it has all that the network needs.",
)
@option(
    "--strict-codes",
    is_flag=True,
    help="Exit with 1 where parts of a tensor keep hardly any of the information of their values in their codes, of "
    "which a warning tells; the files are written all the same.",
)
@option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@option(
    "--calibrate",
    metavar="DATASET",
    group=_CALIBRATE,
    help="Quantize full-precision weights on training images of this data set, named as for `train`.",
)
@option(
    "--max-drop",
    type=Points(min=0),
    group=_CALIBRATE,
    help="Exit with 1 where accuracy (agreement, without labels) falls by more points; the files are written all the "
    "same.",
)
@options_of(PostTraining, only=_SETTINGS, renamed=_RENAMED, group=_CALIBRATE)
def command(
    checkpoint: Path,
    bits: str | None,
    output: Path | None,
    model: str | None,
    target: str,
    weights: str,
    input_type: str,
    dynamic_size: bool,
    tail: str,
    opset: int | None,
    strict_codes: bool,
    calibrate: str | None,
    max_drop: float | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Write a trained model as an integer ONNX file.

    The file is run in ONNX Runtime before it is written. A table says for each layer which bits, scales and kernel it
    has. With --calibrate DATASET, MODEL.PT holds full-precision weights: they are quantized without training, and the
    quantized checkpoint is written beside the file, with suffix .quantized.pt. Layers for which the bits are too few
    are named on stderr.
    """
    given = named(options)
    if target != ORT:
        refuse_for_target(target, opset=opset, dynamic_size=dynamic_size, strict_codes=strict_codes)
    form: dict[str, Any] = {"weights": weights, "input": input_type, "opset": opset, "dynamic_size": dynamic_size}
    form["tail"] = tail
    if calibrate is None:
        refuse_without("--calibrate", "--calibrate DATASET", {**given, **named({"max_drop": max_drop})})
        if target != ORT:
            return write_for_target(target, checkpoint, output, bits, model, weights, input_type, as_json)
        from qkd_deploy.workflows.export import export_checkpoint

        report = export_checkpoint(checkpoint, output, bits=bits, model=model, **form)
        _print(report, target, as_json)
        return _judged(report, strict_codes)
    if bits is None and "auto_bits" not in given:
        raise click.UsageError("--calibrate quantizes weights; say to which bits, such as --bits w8a8")
    from qkd_deploy.workflows.next_command import data_options, model_option
    from qkd_deploy.workflows.post_training import export_calibrated

    settings = {**given, "dataset": calibrate, **named({"bits": bits, "model": model})}
    onnx = output if target == ORT or output is None else onnx_beside(target, output)
    done = export_calibrated(checkpoint, onnx, settings=settings, progress=lambda line: echo(line, err=True), **form)
    if target == ORT or not as_json:
        _print(done.report, target, as_json, done)
    if max_drop is not None and done.drop > max_drop:
        fell = f"{done.measure} fell by {done.drop:.2f} points"
        echo(f"FAILED: {fell}, more than --max-drop {max_drop:g}; both files are written", err=True)
        return 1
    status = _judged(done.report, strict_codes)
    if target != ORT:
        words = data_options(settings)
        return write_for_target(target, done.checkpoint, output, None, model, weights, input_type, as_json, words)
    if not as_json and not status:
        words = [*data_options(settings), "--checkpoint", str(done.checkpoint), *model_option(model)]
        echo(f"next: {shlex.join(['qkd-deploy', 'verify', str(done.report.path), *words])}")
    return status


def _judged(report: ExportReport, strict_codes: bool) -> int:
    """The exit code as far as wasted codes decide it."""
    if not (strict_codes and report.wasted):
        return 0
    named = ", ".join(wasted.tensor for wasted in report.wasted)
    echo(f"FAILED: wasted codes in {named} (--strict-codes); {report.path} is written", err=True)
    return 1


def _print(report: ExportReport, target: str, as_json: bool, calibrated: CalibratedExport | None = None) -> None:
    from qkd_deploy.cli.tables import layer_table, print_tables
    from qkd_deploy.workflows.inspect import inspect_onnx

    written = inspect_onnx(report.path, build=False)
    if as_json:
        table: dict[str, Any] = {
            "path": str(report.path),
            "target": target,
            "requires_onnxruntime": report.requires or None,
        }
        table["weight_codes"] = report.weight_codes
        table["wasted_codes"] = [asdict(wasted) for wasted in report.wasted]
        extra = {} if calibrated is None else {"calibration": _calibration(calibrated)}
        echo(json.dumps({**table, **written.as_dict(), **extra}, indent=2))
        return
    print_tables(layer_table(written))
    if report.weight_codes:
        echo(report.weight_codes)
    if written.replaced:
        echo(f"replaced: {replaced_in_words(written.replaced)}")
    needs = f"; needs ONNX Runtime {report.requires} or newer" if report.requires else ""
    echo(f"wrote {report.path} ({written.bits}, {report.size / 1000:,.1f} kB{needs})")
    _print_tail(report)
    if written.open_sizes:
        echo(written.open_sizes)
    if calibrated is not None:
        echo(f"wrote {calibrated.checkpoint} (the quantized checkpoint)")
        if calibrated.choice is not None:
            _print_choice(calibrated.choice, calibrated.bits)
        before, first = calibrated.float_accuracy, calibrated.calibrated_accuracy
        echo(
            f"integer {calibrated.measure} {calibrated.accuracy:.2f} %{_further(calibrated)} on {calibrated.images} "
            f"held-out images of {calibrated.dataset}"
            + ("" if first is None else f"; {first:.2f} % before --reconstruct")
            + ("" if before is None else f"; {before:.2f} % in full precision")
        )


def _print_tail(report: ExportReport) -> None:
    """Where the tail went, where it was cut off."""
    if report.decode is None:
        return
    if report.decode_path is None:
        echo(f"left to your application: {', '.join(report.decode.tail)}")
    else:
        size, count = report.decode_path.stat().st_size, len(report.decode.tail)
        what = f"{count} operations from {report.decode.tail[0]} to {report.decode.tail[-1]}"
        echo(f"wrote {report.decode_path} (float32, {size / 1000:,.1f} kB), which decodes what that gives: {what}")


def _further(done: CalibratedExport) -> str:
    """The other figures that the task measures, beside those in full precision."""
    return "".join(
        f", {name} {value:.2f} % (of {done.float_figures[name]:.2f} %)"
        for name, value in list(done.figures.items())[1:]
    )


def _print_choice(choice: BitsChoice, base: str) -> None:
    """The choice, and how to repeat it by hand."""
    echo(f"{choice.in_words()}; the same by hand: {shlex.join(choice.options(base))}")


def _calibration(done: CalibratedExport) -> dict[str, Any]:
    return {
        "auto_bits": None if done.choice is None else asdict(done.choice),
        "checkpoint": str(done.checkpoint),
        "dataset": done.dataset,
        "images": done.images,
        "measure": done.measure,
        "accuracy": done.accuracy,
        "float_accuracy": done.float_accuracy,
        "figures": dict(done.figures),
        "float_figures": dict(done.float_figures),
        "drop": done.drop,
        "warnings": asdict(done.diagnosis),
        "calibrated_accuracy": done.calibrated_accuracy,
    }

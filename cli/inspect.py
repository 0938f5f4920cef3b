"""``qkd-deploy inspect``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.options import GroupedCommand, in_words, named, option, options_of, refuse_without
from qkd_deploy.cli.printing import echo, echo_line
from qkd_deploy.graph.replacements import replaced_in_words
from qkd_deploy.workflows.settings import SensitivityData

if TYPE_CHECKING:
    from qkd_deploy.workflows.inspect import Inspection

_SENSITIVITY = "with --sensitivity"


@click.command(cls=GroupedCommand)
@click.argument("file", type=Path, metavar="MODEL.PT|MODEL.ONNX")
@option("--model", help="Your own network, `package.module:factory`, where a checkpoint holds one.")
@option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@option(
    "--sensitivity",
    is_flag=True,
    group=_SENSITIVITY,
    help="Rank the layers of a checkpoint, quantized or not, by the loss that each costs when quantized alone.",
)
@option(
    "--bits", group=_SENSITIVITY, usual="the checkpoint's; w4a4", help="Bits of the layer that is quantized, alone."
)
@options_of(
    SensitivityData,
    only=(
        "images",
        "dataset",
        "task",
        "data_dir",
        "dataset_args",
        "image_size",
        "normalization",
        "interpolation",
        "crop_pct",
        "fit",
        "input_range",
        "strict",
        "model_args",
    ),
    renamed={"images": "--limit"},
    group=_SENSITIVITY,
    usual=lambda declared: "the checkpoint's" if declared.name == "dataset" else in_words(declared.default),
)
def command(file: Path, model: str | None, sensitivity: bool, as_json: bool, **options: Any) -> int:
    """Show the layers of a model: bits, scales, kernels, size, and the worst case of every integer sum.

    For an ONNX file also the kernels that ONNX Runtime really built, and what computes in float and why. The exit code
    is 1 where an input could make an accumulator overflow int32. With --sensitivity, MODEL.PT holds full-precision
    weights or is a quantized checkpoint, whose weights before rounding are taken.
    """
    given = named(options)
    if sensitivity:
        _print_sensitivity(file, model, given, as_json)
        return 0
    refuse_without("--sensitivity", "--sensitivity", given)
    from qkd_deploy.cli.tables import layer_table, print_tables, tensor_table
    from qkd_deploy.workflows.inspect import inspect_model

    found = inspect_model(file, model=model)
    if as_json:
        echo(json.dumps(found.as_dict(), indent=2))
    else:
        print_tables(layer_table(found), tensor_table(found))
        _print_rest(found)
    return 1 if found.overflows else 0


def _print_sensitivity(file: Path, model: str | None, given: dict[str, Any], as_json: bool) -> None:
    from qkd_deploy.cli.tables import print_tables, sensitivity_table
    from qkd_deploy.workflows.full_precision import file_sensitivity

    bits = given.pop("bits", None)
    settings = {**given, **named({"model": model})}
    found = file_sensitivity(file, bits, settings=settings, progress=lambda text: echo(text, err=True))
    if as_json:
        echo(json.dumps(asdict(found), indent=2))
        return
    print_tables(sensitivity_table(found))
    echo(f"{found.measure} {found.baseline:.4g} in full precision, on {found.images} training images")


def _print_sums(found: Inspection) -> None:
    from qkd_deploy.cli.tables import in_words

    layers = {layer.name for layer in found.layers}
    for sums in found.sums:
        if sums.name not in layers:
            echo_line(f"{sums.name}: {in_words(sums)}")
    for sums in found.overflows:
        least, largest = (pick(*sums.accumulator, *sums.total, *sums.running) for pick in (min, max))
        echo_line(f"int32 overflows: {sums.name} can reach {least:,} .. {largest:,} in channel {sums.channel}")
    if found.sums and not found.overflows:
        least_free = min(found.sums, key=lambda sums: sums.free)
        echo_line(f"no input can overflow int32: {least_free.free:.1f} bits are free at least, in {least_free.name}")


def _print_pixels(found: Inspection) -> None:
    """What the network takes pixels as, where that is not the usual; a file for raw pixels takes those."""
    from qkd_deploy.pixels.normalization import CENTERED, Normalization

    entry = found.origin.get("normalization")
    if entry is not None and (taken := Normalization.of_entry(entry)) != CENTERED:
        form = "raw pixels of a network that takes them" if found.input == "uint8" else "pixels"
        echo_line(f"input: {form} normalised by {taken}")


def _print_decoding(found: Inspection) -> None:
    decode = found.decode
    if decode is None:
        return
    for part in decode.parts:
        echo_line(f"cut off: {part.module}{f' ({part.op})' if part.op else ''}: {part.reason}")
    if not decode.file:
        echo_line("no decode file: the tail was left to your application")
    elif decode.bytes is None:
        echo_line(f"decode file: {decode.file}, which does not lie beside the file")
    else:
        echo_line(f"decode file: {decode.file}, {decode.bytes / 1000:,.1f} kB, float32")


def _print_rest(found: Inspection) -> None:
    _print_sums(found)
    if found.kernels is not None:
        echo_line("kernels: " + ", ".join(f"{count} {op}" for op, count in found.kernels.items()))
    if found.replaced:
        echo_line(f"replaced: {replaced_in_words(found.replaced)}")
    for part in found.floats:
        echo_line(f"in float: {part.module} ({part.op}): {part.reason}")
    for part in found.tail:
        echo_line(f"tail in float: {part.module} ({part.op}): {part.reason}")
    _print_decoding(found)
    if not found.floats:
        echo_line(f"everything {'in front of the tail ' if found.tail or found.decode else ''}computes in integers")
    accuracy = found.origin.get("accuracy")
    if accuracy is not None:
        where = f"{accuracy['images']} images of {accuracy['dataset']}"
        measure = accuracy.get("measure", "accuracy")
        kind = measure if found.floats else f"integer {measure}"
        echo_line(f"{kind} {accuracy['integer']:.2f} % on {where}")
    _print_pixels(found)
    if found.open_sizes:
        echo(found.open_sizes)
    weights = sum(layer.bytes for layer in found.layers)
    how = f"{found.bits}, quantizer {found.quantizer}" if found.quantizer else found.bits
    echo_line(f"{found.path}: {how}, {found.bytes / 1000:,.1f} kB, {weights / 1000:,.1f} kB of them exported layers")

"""``qkd-deploy export``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from qkd_deploy.cli.options import Choice


@click.command()
@click.argument("checkpoint", type=Path, metavar="MODEL.PT")
@click.option("--bits", help="The bits that the checkpoint must be trained at.")
@click.option("--output", type=Path, help="The file to write; beside the checkpoint, with suffix .onnx, by default.")
@click.option("--model", help="Your own network, package.module:factory, where the checkpoint holds one.")
@click.option("--target", type=Choice(["ort"]), default="ort", help="The runtime: ort (ONNX Runtime).")
@click.option("--weights", type=Choice(["int8", "packed"]), default="int8", help="int8, or packed INT4 and INT2.")
@click.option(
    "--input",
    "input_type",
    type=Choice(["float32", "uint8"]),
    default="float32",
    help="Normalised float32 images, or raw uint8 pixels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    checkpoint: Path,
    bits: str | None,
    output: Path | None,
    model: str | None,
    target: str,
    weights: str,
    input_type: str,
    as_json: bool,
) -> None:
    """Write a trained model as an integer ONNX file.

    The file is run in ONNX Runtime before it is written. A table says for each layer which bits, scales and kernel it
    has.
    """
    from qkd_deploy.cli.tables import layer_table, print_tables
    from qkd_deploy.deploy import export_checkpoint
    from qkd_deploy.inspection import inspect_onnx

    report = export_checkpoint(checkpoint, output, bits=bits, model=model, weights=weights, input=input_type)
    written = inspect_onnx(report.path, build=False)
    if as_json:
        table = {"path": str(report.path), "target": target, "requires_onnxruntime": report.requires or None}
        click.echo(json.dumps({**table, **written.as_dict()}, indent=2))
        return
    print_tables(layer_table(written))
    needs = f"; needs ONNX Runtime {report.requires} or newer" if report.requires else ""
    click.echo(f"wrote {report.path} ({written.bits}, {report.size / 1000:,.1f} kB{needs})")

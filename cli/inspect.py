"""``qkd-deploy inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qkd_deploy.inspection import Inspection


@click.command()
@click.argument("file", type=Path, metavar="MODEL.PT|MODEL.ONNX")
@click.option("--model", help="Your own network, package.module:factory, where a checkpoint holds one.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(file: Path, model: str | None, as_json: bool) -> None:
    """Show the layers of a model: bits, scales, kernels, size.

    For an ONNX file also the kernels that ONNX Runtime really built, and what computes in float and why.
    """
    from qkd_deploy.cli.tables import layer_table, print_tables, tensor_table
    from qkd_deploy.inspection import inspect_model

    found = inspect_model(file, model=model)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    print_tables(layer_table(found), tensor_table(found))
    _print_rest(found)


def _print_rest(found: Inspection) -> None:
    if found.kernels is not None:
        click.echo("kernels: " + ", ".join(f"{count} {op}" for op, count in found.kernels.items()))
    for part in found.floats:
        click.echo(f"in float: {part.module} ({part.op}): {part.reason}")
    if not found.floats:
        click.echo("everything computes in integers")
    accuracy = found.origin.get("accuracy")
    if accuracy is not None:
        where = f"{accuracy['images']} images of {accuracy['dataset']}"
        kind = "accuracy" if found.floats else "integer accuracy"
        click.echo(f"{kind} {accuracy['integer']:.2f} % on {where}")
    weights = sum(layer.bytes for layer in found.layers)
    click.echo(
        f"{found.path}: {found.bits}, {found.bytes / 1000:,.1f} kB, {weights / 1000:,.1f} kB of them exported layers"
    )

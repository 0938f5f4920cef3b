"""``export --target`` for runtimes other than ONNX Runtime: what may be said with it, and its account."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.printing import echo

if TYPE_CHECKING:
    from qkd_deploy.export.targets.file import TargetReport


def refuse_for_target(target: str, **given: Any) -> None:
    """Refuse options that belong to ONNX files alone.

    Raises:
        click.UsageError: one of them is given.
    """
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if named:
        raise click.UsageError(f"{named[0]} is for ONNX files; leave it out with --target {target}")


def onnx_beside(target: str, output: Path) -> Path:
    """Where the ONNX file goes that calibration writes, too: beside the file of the target."""
    from qkd_deploy.export.targets.registry import target_named

    suffix = target_named(target).suffix
    return output.with_name(output.name.removesuffix(suffix) + ".onnx")


def write_for_target(
    target: str,
    checkpoint: Path,
    output: Path | None,
    bits: str | None,
    model: str | None,
    weights: str,
    input_type: str,
    as_json: bool,
    data: Sequence[str] = ("--dataset", "DATASET"),
) -> int:
    """Write a file for a target, and print its account; ``data`` are options of the next command."""
    from qkd_deploy.workflows.next_command import model_option
    from qkd_deploy.workflows.targets import export_to_target

    report = export_to_target(checkpoint, target, output, bits=bits, model=model, weights=weights, input=input_type)
    if as_json:
        echo(json.dumps(as_data(report), indent=2))
        return 0
    _print(report)
    words = ["qkd-deploy", "verify", str(report.path), "--checkpoint", str(checkpoint)]
    echo(f"next: {shlex.join([*words, *model_option(model), *data])}")
    return 0


def as_data(report: TargetReport) -> dict[str, Any]:
    """The account as plain data for machines."""
    off = report.steps_off
    return {
        "path": str(report.path),
        "bytes": report.size,
        "target": report.target,
        "runtime": report.runtime,
        "compared_codes": off.compared,
        "differing_codes": off.differing,
        "steps_off": off.worst,
        "tolerance": report.tolerance,
        "agreement": off.agreement,
        "kernels": [asdict(kernel) for kernel in report.kernels],
        "tail": list(report.tail),
        "beside": list(map(str, report.beside)),
    }


def _agreed(report: TargetReport) -> str:
    """How many classes stay the same, where outputs may differ."""
    off = report.steps_off
    return f", {off.agreeing} of {off.classified} classes the same" if report.tolerance and off.classified else ""


def _print(report: TargetReport) -> None:
    allowed = f" ({report.tolerance} allowed)" if report.tolerance else ""
    off = report.steps_off
    echo(f"ran in {report.title} {report.runtime}: {off.in_words()}{allowed} on golden inputs{_agreed(report)}")
    for integer, where in ((True, "in integers"), (False, "in float")):
        counted = [f"{kernel.count} {kernel.name}" for kernel in report.kernels if kernel.integer is integer]
        if counted:
            echo(f"{where}: {', '.join(counted)}")
    echo(f"wrote {report.path} ({report.bits}, {report.size / 1000:,.1f} kB)")
    for path in report.beside:
        echo(f"wrote {path}")
    if report.tail:
        echo(f"left to your application: {', '.join(report.tail)}")

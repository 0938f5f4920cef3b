"""``qkd-deploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.atomic import atomic_write, is_same_file
from qkd_deploy.cli.options import GroupedCommand, image_options, named, option, require_checkpoint_of
from qkd_deploy.cli.printing import echo
from qkd_deploy.cli.values import Choice, Points, TargetName
from qkd_deploy.settings import LARGEST, declarations
from qkd_deploy.training.groups import DataSource
from qkd_deploy.verification.settings import VerifyOptions

if TYPE_CHECKING:
    from qkd_deploy.verification.report import VerificationReport

_TOLERANCE, _REQUIRE_INTEGER, _STRICT_CODES = declarations(VerifyOptions)


@click.command(cls=GroupedCommand)
@click.argument("file", type=Path, metavar="MODEL.ONNX")
@image_options(DataSource)
@option("--split", type=Choice(["test", "train"]), group="data", usual="test", help="Part of the data set.")
@option(
    "--inputs",
    type=Path,
    group="data",
    help="Instead of a data set: a `.npy` array of uint8 pixels or normalised floats, or an `.npz` with one per input.",
)
@option("--limit", type=click.IntRange(1, LARGEST), group="data", usual="all", help="Only the first images.")
@option("--checkpoint", type=Path, help="The `model.pt` that the file was exported from.")
@option(
    "--require-checkpoint",
    is_flag=True,
    help="Refuse to start without `--checkpoint`: for pipelines, which must not take CONSISTENT for VERIFIED.",
)
@option(
    "--target",
    type=TargetName(),
    usual="what the file is for",
    help="The runtime that the file has to be for; it is run there.",
)
@option(
    "--key",
    type=Path,
    metavar="PUBLIC.PEM",
    help="For a bundle of `handoff`: fail unless the owner of this public key signed it.",
)
@option("--model", help="Your own network, `package.module:factory`, where the checkpoint holds one.")
@option(
    "--tolerance",
    type=Points(min=0),
    default=_TOLERANCE.default,
    help=_TOLERANCE.help,
)
@option("--require-integer", is_flag=True, help=_REQUIRE_INTEGER.help)
@option("--strict-codes", is_flag=True, help=_STRICT_CODES.help)
@option(
    "--json",
    "json_file",
    help="Write the report as JSON to this file; `-` prints it alone on stdout, and the table on stderr.",
)
def command(
    file: Path,
    split: str | None,
    inputs: Path | None,
    limit: int | None,
    checkpoint: Path | None,
    require_checkpoint: bool,
    target: str | None,
    key: Path | None,
    model: str | None,
    tolerance: float,
    require_integer: bool,
    strict_codes: bool,
    json_file: str | None,
    **options: Any,
) -> int:
    """Prove that an ONNX file computes what was trained.

    The last line begins with VERIFIED where the whole file agrees with its --checkpoint, with CONSISTENT where it
    agrees with itself and no checkpoint was given (exit code 0 for both), or with FAILED (1). With --json - stdout
    holds the JSON alone, and the table goes to stderr. MODEL.ONNX may be the folder of a bundle of handoff: its files
    are compared with its manifest first, and with --key that with its signature.
    """
    require_checkpoint_of(model, checkpoint)
    if require_checkpoint and checkpoint is None:
        raise click.UsageError(
            "--require-checkpoint asks for proof against a checkpoint; give --checkpoint MODEL.PT too"
        )
    for read in (file, checkpoint, inputs):
        if json_file not in (None, "-") and read is not None and is_same_file(str(json_file), read):
            raise click.UsageError(f"--json would replace {read}, which is read; choose another file")
    given = named(options)
    if "dataset" not in given:
        if split is not None or given.keys() - {"workers"}:
            pictures = "--image-size, --interpolation, --crop-pct, --fit"
            listed = f"--split, --task, --data-dir, --dataset-arg, {pictures} and --strict"
            raise click.UsageError(f"{listed} belong to a data set; give --dataset too")
        if inputs is None and limit is not None:
            raise click.UsageError("--limit counts images; give --dataset or --inputs too")
    from qkd_deploy.data.sets.arrays import read_arrays
    from qkd_deploy.gate.onnx_file import OnnxFile, read_exported
    from qkd_deploy.verification.report import VerificationReport
    from qkd_deploy.workflows.export import verify_deployed
    from qkd_deploy.workflows.handoff import opened_bundle
    from qkd_deploy.workflows.images import images_for_file
    from qkd_deploy.workflows.targets import read_subject, verify_subject

    bundle = opened_bundle(file, key)
    if bundle is not None and bundle.level.status == "failed":
        return _ended(VerificationReport(str(file), levels=[bundle.level]), json_file)
    path = file if bundle is None else bundle.model
    subject = read_subject(path, target) or read_exported(path)
    data = images_for_file(subject, given) if "dataset" in given else None
    common: dict[str, Any] = {"checkpoint": checkpoint, "model": model, "data": data, "split": split or "test"}
    common |= {"inputs": None if inputs is None else read_arrays(inputs), "limit": limit}
    common["require_integer"] = require_integer
    if isinstance(subject, OnnxFile):
        report = verify_deployed(subject, **common, tolerance=tolerance, strict_codes=strict_codes)
    else:
        report = verify_subject(subject, **common)
    for note in data.notes if data is not None else ():
        echo(f"note: {note}", err=True)
    if bundle is not None:
        report.levels.insert(0, bundle.level)
    return _ended(report, json_file)


def _ended(report: VerificationReport, json_file: str | None) -> int:
    """Print a report; returns the exit code."""
    from qkd_deploy.cli.tables import console

    if json_file not in (None, "-"):
        with atomic_write(Path(str(json_file))) as temporary:
            temporary.write_text(report.to_json() + "\n", encoding="utf-8")
    report.render(console(stderr=json_file == "-"))
    if json_file == "-":
        echo(report.to_json())
    return 0 if report.passed else 1

"""``qkd-deploy sweep``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qkd_deploy.cli.options import GroupedCommand, option
from qkd_deploy.cli.printing import echo

if TYPE_CHECKING:
    from qkd_deploy.sweep import SweepReport


@click.command(cls=GroupedCommand)
@click.argument("file", type=Path, metavar="SWEEP.TOML")
@option("--out", type=Path, usual="runs/NAME for NAME.toml", help="Folder of the results and runs.")
@option("--jobs", type=click.IntRange(1, 256), default=1, help="Entries at a time.")
@option("--json", "as_json", is_flag=True, help="Print `results.json` instead of the table.")
def command(file: Path, out: Path | None, jobs: int, as_json: bool) -> int:
    """Train, export and verify every combination of some settings.

    SWEEP.TOML has the table [settings] for what all entries share, and [grid] with a list of values for each axis, such
    as method, bits and seed. Called again, it goes on where it was, and runs only what is new.
    """
    from qkd_deploy.sweep import run_sweep

    folder = out or Path("runs", file.stem)
    called = shlex.join(["qkd-deploy", "sweep", str(file), *(["--jobs", str(jobs)] if jobs > 1 else [])])
    report = run_sweep(file, folder, jobs=jobs, command=called, report=lambda line: echo(line, err=True))
    if as_json:
        echo(json.dumps(json.loads((folder / "results.json").read_text(encoding="utf-8")), indent=2))
    else:
        _print(report)
    return 1 if report.failures else 0


def _print(report: SweepReport) -> None:
    from rich.table import Table
    from rich.text import Text

    from qkd_deploy.cli.tables import print_tables
    from qkd_deploy.sweep.results import table

    header, rows = table(report.rows)
    shown = Table()
    for column in header:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    print_tables(shown)
    for label, failure in report.failures.items():
        echo(f"not verified: {label}: {failure}")
    echo(f"wrote {report.folder / 'results.md'} and {report.folder / 'results.json'}")

"""``qkd-deploy bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkd_deploy.cli.options import GroupedCommand, option, require_checkpoint_of
from qkd_deploy.cli.printing import echo
from qkd_deploy.cli.values import Choice
from qkd_deploy.settings import MOST_THREADS

if TYPE_CHECKING:
    from rich.table import Table

    from qkd_deploy.bench.benchmark import BenchReport


class _Rival(Choice):
    """``fp32``, ``unreplaced``, or any ONNX file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take a name that ends with .onnx as it is."""
        return value if str(value).endswith(".onnx") else super().convert(value, param, ctx)


@click.command(cls=GroupedCommand)
@click.argument("file", type=Path, metavar="MODEL.ONNX")
@option(
    "--against",
    type=_Rival(["fp32", "unreplaced"]),
    help="Compare with `fp32`, the same network in float; with `unreplaced`, the same network at the same bits with "
    "the activation functions that `--replace` replaced; or with an ONNX file.",
)
@option(
    "--checkpoint",
    type=Path,
    help="With `--against fp32` or `unreplaced`: the `model.pt` that the file was exported from.",
)
@option("--model", help="Your own network, `package.module:factory`, where the checkpoint holds one.")
@option("--threads", type=click.IntRange(1, MOST_THREADS), default=1, help="Threads of each session.")
@option("--batch", type=click.IntRange(1, 65_536), default=1, help="Images per run.")
@option(
    "--rounds",
    type=click.IntRange(1, 1_000_000),
    default=100,
    help="Samples of about 10 ms for each model.",
)
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path,
    against: str | None,
    checkpoint: Path | None,
    model: str | None,
    threads: int,
    batch: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Measure latency, throughput, memory and size, also against fp32.

    Models are timed in turns in one run; trust the ratios more than the milliseconds.
    """
    if checkpoint is not None and against not in ("fp32", "unreplaced"):
        raise click.UsageError("--checkpoint holds the network that fp32 is; give --against fp32 or unreplaced too")
    require_checkpoint_of(model, checkpoint)
    from qkd_deploy.bench.benchmark import bench
    from qkd_deploy.cli.tables import print_tables
    from qkd_deploy.workflows.export import load_trained

    rival = None
    if checkpoint is not None:
        trained = load_trained(checkpoint, model=model)
        rival = trained.build_float() if against == "fp32" else trained.build_unreplaced(model)
    report = bench(file, against=against, rival=rival, threads=threads, batch=batch, rounds=rounds)
    if as_json:
        echo(json.dumps(report.as_dict(), indent=2))
        return
    print_tables(_table(report))
    for name, ratio in report.ratios.items():
        low, high = ratio.latency_quartiles
        memory = "" if ratio.peak_memory is None else f", {1 / ratio.peak_memory:.2f}x the memory"
        echo(
            f"against {name}: {ratio.latency:.2f}x the speed (quartiles {low:.2f} .. {high:.2f}){memory}, "
            f"{1 / ratio.file_bytes:.2f}x the size"
        )


def _table(report: BenchReport) -> Table:
    from rich.table import Table

    title = f"{report.path}: batch {report.batch}, {report.threads} thread(s), ONNX Runtime {report.onnxruntime}"
    table = Table(title=title, title_justify="left")
    for column in ("model", "ms per run", "quartiles", "images/s", "peak memory MB", "file MB"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, found in report.models.items():
        low, high = (f"{1000 * value:.3f}" for value in found.latency_quartiles)
        table.add_row(
            name,
            f"{1000 * found.latency:.3f}",
            f"{low} .. {high}",
            f"{found.throughput:,.0f}",
            "-" if found.peak_memory is None else f"{found.peak_memory / 1e6:.1f}",
            f"{found.file_bytes / 1e6:.2f}",
        )
    return table

"""``qkd-deploy bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qkd_deploy.cli.options import GroupedCommand, option, require_checkpoint_of
from qkd_deploy.cli.printing import echo
from qkd_deploy.cli.values import Choice, TargetName
from qkd_deploy.settings import MOST_THREADS


class _Rival(Choice):
    """``fp32``, ``unreplaced``, or any file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take a name with a suffix as it is."""
        return value if Path(str(value)).suffix else super().convert(value, param, ctx)


@click.command(cls=GroupedCommand)
@click.argument("file", type=Path, metavar="MODEL.ONNX")
@option(
    "--against",
    type=_Rival(["fp32", "unreplaced"]),
    help="Compare with `fp32`, the same network in float; with `unreplaced`, the same network at the same bits with "
    "the activation functions that `--replace` replaced; or with a file, for any target.",
)
@option(
    "--runtime",
    type=TargetName(),
    usual="what the file is for",
    help="What computes ONNX files (`ort` is ONNX Runtime); a file for another target runs in its own runtime.",
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
@option("--plot", type=Path, help="Draw the result into this `.png`, `.svg` or `.pdf` file, too.")
def command(
    file: Path,
    against: str | None,
    checkpoint: Path | None,
    model: str | None,
    threads: int,
    batch: int,
    rounds: int,
    as_json: bool,
    runtime: str | None,
    plot: Path | None,
) -> None:
    """Measure latency, throughput, memory, size and the time of each layer, also against fp32.

    Each file runs in a process of its own, all on the same CPUs, in turns; trust the ratios more than the milliseconds.
    """
    if checkpoint is not None and against not in ("fp32", "unreplaced"):
        raise click.UsageError("--checkpoint holds the network that fp32 is; give --against fp32 or unreplaced too")
    require_checkpoint_of(model, checkpoint)
    from qkd_deploy.bench.benchmark import bench
    from qkd_deploy.bench.plot import plot_bench, require_picture
    from qkd_deploy.cli.bench_tables import bench_table, layer_time_table
    from qkd_deploy.cli.tables import print_tables
    from qkd_deploy.workflows.export import load_trained

    rival = None
    if checkpoint is not None:
        trained = load_trained(checkpoint, model=model)
        rival = trained.build_float() if against == "fp32" else trained.build_unreplaced(model)
    if plot is not None:
        require_picture(plot)
    amounts: dict[str, Any] = {"threads": threads, "batch": batch, "rounds": rounds}
    report = bench(file, against=against, rival=rival, runtime=runtime, **amounts)
    if plot is not None:
        plot_bench(report, plot)
    if as_json:
        echo(json.dumps(report.as_dict(), indent=2))
        return
    for sentence in report.sentences():
        echo(sentence)
    print_tables(bench_table(report), *([layer_time_table(report)] if report.layers else []))

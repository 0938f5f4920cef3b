"""Tables of ``qkd-deploy bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from qkd_deploy.bench.report import BenchReport

_LAYERS = 20
"""Rows of the table of layers; the rest are one row."""


def bench_table(report: BenchReport) -> Table:
    """One row per model."""
    from rich.table import Table
    from rich.text import Text

    pinned = f" on CPU {', '.join(map(str, report.cpus))}" if report.cpus else ""
    table = Table(title=Text(f"{report.path}: batch {report.batch}, {report.threads} thread(s){pinned}"))
    table.title_justify = "left"
    columns = (
        "model",
        "runtime",
        "ms per run",
        "p50",
        "p90",
        "p99",
        "images/s",
        "load ms",
        "peak memory MB",
        "file MB",
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    for name, found in report.models.items():
        cells = (
            name,
            found.runtime,
            *(f"{1000 * value:.3f}" for value in (found.latency, *found.percentiles.values())),
            f"{found.throughput:,.0f}",
            f"{1000 * found.load_seconds:,.1f}",
            "-" if found.peak_memory is None else f"{found.peak_memory / 1e6:.1f}",
            f"{found.file_bytes / 1e6:.2f}",
        )
        table.add_row(*map(Text, cells))
    return table


def layer_time_table(report: BenchReport) -> Table:
    """One row per module of the user's, the slowest first."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Time by layer, under the profiler", title_justify="left")
    for column in ("layer", "ms", "%", "in", "kernels"):
        table.add_column(column, justify="right" if column in ("ms", "%") else "left", overflow="fold")
    for layer in report.layers[:_LAYERS]:
        kind = {True: "integers", False: "float", None: "moves data"}[layer.integer]
        cells = (layer.module or "between layers", f"{1000 * layer.seconds:.3f}", f"{100 * layer.share:.1f}", kind)
        table.add_row(*map(Text, (*cells, ", ".join(layer.kernels))))
    rest = report.layers[_LAYERS:]
    if rest:
        seconds, share = sum(layer.seconds for layer in rest), sum(layer.share for layer in rest)
        table.add_row(f"{len(rest)} others (see --json)", f"{1000 * seconds:.3f}", f"{100 * share:.1f}", "", "")
    return table

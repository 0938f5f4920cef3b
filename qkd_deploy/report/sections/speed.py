"""Kernels, and the time that each layer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qkd_deploy.bench.layers import KernelTime
from qkd_deploy.report import svg
from qkd_deploy.report.charts import Bar, bars
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.tables import Plot, Table, duration, share

MOST_BARS = 60
COLOURS: Mapping[str, str] = {"integer": svg.BLUE, "float": svg.ORANGE, "moves": svg.MUTED}
WORDS: Mapping[str, str] = {
    "integer": "computes with whole numbers",
    "float": "computes with floats",
    "moves": "moves or rounds data",
}
_NOBODYS = "(added by the runtime)"


@dataclass(frozen=True)
class Speed:
    """The section: a chart by layer with its table of kernels, and totals.

    Attributes:
        plot: time by layer.
        steps: how many there are, by what they do.
        total: seconds of all kernels.
        integer, fp32: seconds of one image; None where not measured.
        hidden: layers that are only in the table.
    """

    plot: Plot
    steps: Mapping[str, int]
    total: float
    integer: float | None
    fp32: float | None
    hidden: int


def speed(findings: Findings) -> Speed | None:
    """Draw the time by layer; None where nothing was timed."""
    times = findings.times
    if not times or findings.verification is None:
        return None
    latency = findings.verification.latency_seconds
    total = sum(kernel.seconds for kernel in times)
    layers = _by_layer(times)
    drawn = sorted(layers, key=lambda name: -sum(layers[name].values()))[:MOST_BARS]
    rows = [_bar(name, layers[name], total) for name in layers if name in drawn]
    kinds = [kind for kind in COLOURS if any(kernel.arithmetic == kind for kernel in times)]
    legend = [(WORDS[kind], svg.VARIABLES[COLOURS[kind]], "fill") for kind in kinds]
    plot = Plot("Time by layer", bars(rows, "Time of one image by layer"), _table(times, total), legend)
    numbers = {kind: sum(kernel.arithmetic == kind for kernel in times) for kind in kinds}
    return Speed(plot, numbers, total, latency.get("integer"), latency.get("fp32"), len(layers) - len(drawn))


def _by_layer(times: Sequence[KernelTime]) -> dict[str, dict[str, float]]:
    """Seconds by layer and by what kernels do, in the order of computation."""
    layers: dict[str, dict[str, float]] = {}
    for kernel in times:
        parts = layers.setdefault(kernel.module or _NOBODYS, {})
        parts[kernel.arithmetic] = parts.get(kernel.arithmetic, 0.0) + kernel.seconds
    return layers


def _bar(name: str, parts: Mapping[str, float], total: float) -> Bar:
    seconds = sum(parts.values())
    pieces = [(parts[kind] * 1e6, COLOURS[kind]) for kind in COLOURS if kind in parts]
    return Bar(name, f"{duration(seconds)}, {share(seconds / total)}", pieces)


def _table(times: Sequence[KernelTime], total: float) -> Table:
    rows = [
        [
            kernel.module or _NOBODYS,
            kernel.op,
            WORDS[kernel.arithmetic],
            duration(kernel.seconds),
            share(kernel.seconds / total),
        ]
        for kernel in times
    ]
    return Table("Steps in the order in which they run", ["layer", "kernel", "what it does", "time#", "share#"], rows)

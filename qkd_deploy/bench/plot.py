"""The picture of a benchmark: ratios, percentiles of latency, and the time by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qkd_deploy.atomic import atomic_write
from qkd_deploy.bench.report import INTEGER, BenchReport
from qkd_deploy.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = (".png", ".svg", ".pdf")
_LAYERS = 20
_COLOURS = {True: "tab:blue", False: "tab:red", None: "0.6"}
_KINDS = {True: "in integers", False: "in float", None: "moves data"}


def require_picture(path: Path) -> None:
    """Refuse a name that says no kind of picture, before anything is measured.

    Raises:
        UserError: with the kinds that there are.
    """
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path} names no kind of picture; let it end in {', '.join(PICTURES)}")


def plot_bench(report: BenchReport, path: Path) -> None:
    """Draw a report into a file, whose suffix says the kind of picture.

    Raises:
        UserError: the suffix is none of ``PICTURES``, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    require_picture(path)
    panels = [_latencies, *([_ratios] if report.ratios else []), *([_layers] if report.layers else [])]
    heights: list[float] = [1 + len(report.models), *([4] if report.ratios else [])]
    heights += [1 + min(_LAYERS, len(report.layers)) * 0.6] if report.layers else []
    figure = Figure(figsize=(9, 1 + 0.5 * sum(heights)), layout="constrained")
    figure.suptitle(f"{report.path}: batch {report.batch}, {report.threads} thread(s)", fontsize="medium")
    grid = figure.subplots(len(panels), squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, draw in zip(grid[:, 0], panels, strict=True):
        draw(axes, report)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=110)


def _latencies(axes: Axes, report: BenchReport) -> None:
    """Bars up to the median, and marks at the other percentiles."""
    names = [*report.models][::-1]
    for place, name in enumerate(names):
        p50, *others = (1000 * value for value in report.models[name].percentiles.values())
        axes.barh(place, p50, color="tab:blue" if name == INTEGER else "0.7", height=0.6)
        axes.plot(others, [place] * len(others), "k|", markersize=12)
    axes.set_yticks(range(len(names)), [f"{name}\n{report.models[name].runtime}" for name in names], fontsize="small")
    axes.set_xlabel("ms a run: median (bar), 90 and 99 percent (marks)")
    axes.set_xlim(left=0)


def _ratios(axes: Axes, report: BenchReport) -> None:
    """How many times as good the file is as each other one: above 1 is better."""
    rows: list[tuple[str, float]] = []
    for name, ratio in report.ratios.items():
        values = {"speed": ratio.latency, "memory": ratio.peak_memory, "size": ratio.file_bytes}
        rows += [(f"{what} against {name}", value) for what, value in values.items() if value is not None]
    rows.reverse()
    axes.barh(range(len(rows)), [value for _, value in rows], color="tab:green", height=0.6)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize="small")
    for place, (_, value) in enumerate(rows):
        axes.annotate(f" {value:.2f}x", (value, place), va="center", fontsize="small")
    axes.axvline(1.0, color="k", linewidth=0.8)
    axes.set_xlabel("times as good (above 1 is better)")


def _layers(axes: Axes, report: BenchReport) -> None:
    """The slowest layers, coloured by what they compute in."""
    shown = report.layers[:_LAYERS][::-1]
    for kind, colour in _COLOURS.items():
        places = [place for place, layer in enumerate(shown) if layer.integer is kind]
        if places:
            axes.barh(places, [100 * shown[i].share for i in places], color=colour, label=_KINDS[kind], height=0.7)
    labels = [f"{layer.module or 'between layers'} ({layer.kernels[0]})" for layer in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize="x-small")
    axes.set_xlabel("percent of the time of a run, under the profiler")
    axes.legend(fontsize="small", frameon=False)

"""The kinds of drawings in a report: sparklines, bars by layer, histograms of codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from qkd_deploy.errors import printable
from qkd_deploy.report import svg
from qkd_deploy.report.svg import as_svg, drawing

WIDE, NARROW = 980, 350
"""Pixels: of drawings for desks, and for telephones."""
_ROW, _NARROW_ROW = 25, 42
_POINTS = 100
"""Of a small curve."""
_MOST_DRAWN = 64
"""Bars of a histogram; of more codes, neighbours share one."""


@dataclass(frozen=True)
class Bar:
    """One row of a chart of bars: what is written above the bar, its parts by colour, and a mark to compare with."""

    label: str
    text: str
    parts: Sequence[tuple[float, str]]
    mark: float | None = None


def sparkline(values: Sequence[float], starts: Sequence[int], label: str) -> Markup:
    """Draw one small curve; ``starts`` are places where a phase begins."""
    low, high = min(values), max(values)
    reach = max(high - low, 0.01 * abs(high)) or 1.0

    def across(place: float) -> float:
        return 0.02 + 0.95 * place / max(len(values) - 1, 1)

    def up(value: float) -> float:
        return 0.5 + 0.8 * (value - (low + high) / 2) / reach

    places = thinned(range(len(values)), _POINTS)
    with drawing(220, 54) as figure:
        for start in starts:
            figure.add_artist(Line2D([across(start - 0.5)] * 2, [0.02, 0.98], color=svg.GRID, linewidth=1))
        ends = [across(places[-1])], [up(values[-1])]
        points = [across(place) for place in places], [up(values[place]) for place in places]
        figure.add_artist(Line2D(*points, color=svg.BLUE, linewidth=2, solid_joinstyle="round"))
        figure.add_artist(Line2D(*ends, color=svg.BLUE, marker="o", markersize=5))
        return as_svg(figure, label)


def histogram(counts: Sequence[int], colour: str, label: str) -> Markup:
    """Draw how often each code occurs, by the square root; codes that never do leave a gap."""
    together = -(-len(counts) // _MOST_DRAWN)
    sums = np.add.reduceat(np.asarray(counts, np.int64), np.arange(0, len(counts), together))
    heights = np.sqrt(sums / max(sums.max(), 1))
    step = 1 / len(sums)
    corners: list[tuple[float, float]] = []
    for place in np.flatnonzero(heights):
        left, top = (place + 0.1) * step, 0.03 + 0.96 * max(heights[place], 0.03)  # what occurs is seen
        corners += [(left, 0.03), (left, top), (left + 0.8 * step, top), (left + 0.8 * step, 0.03)]
    kinds = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO] * (len(corners) // 4)
    with drawing(220, 72) as figure:
        if corners:
            shape = PathPatch(Path(corners, kinds), facecolor=colour, linewidth=0, transform=figure.transFigure)
            figure.add_artist(shape)
        figure.add_artist(Line2D([0, 1], [0.02, 0.02], color=svg.GRID, linewidth=1.5))
        return as_svg(figure, label)


def thinned(places: Sequence[int], most: int) -> list[int]:
    """Take evenly spread ones of many places, the first and the last included."""
    if len(places) <= most:
        return list(places)
    return [places[round(index)] for index in np.linspace(0, len(places) - 1, most)]


def bars(rows: Sequence[Bar], label: str) -> Markup:
    """Draw a row for each bar, with its label above it, once for desks and once for telephones."""
    return both(lambda width: _bars(rows, label, width))


def _bars(rows: Sequence[Bar], label: str, width: int) -> Markup:
    """Labels stand before the bars where there is room, and above them where there is none."""
    beside = width == WIDE
    row = _ROW if beside else _NARROW_ROW
    left, right = (260 / width, 1 - 150 / width) if beside else (0.0, 1.0)
    longest = max((max(sum(v for v, _ in one.parts), one.mark or 0) for one in rows), default=1) or 1
    text, bar = (0.5, 0.5) if beside else (0.26, 0.68)
    with drawing(width, max(row * len(rows), 1)) as figure:
        axes = figure.add_axes((left, 0, right - left, 1))
        axes.set_axis_off()
        axes.set_xlim(0, longest * 1.003)
        axes.set_ylim(len(rows), 0)
        axes.barh(np.arange(len(rows)) + bar, longest, height=9 / row, color=svg.BAND, linewidth=0)
        for place, one in enumerate(rows):
            name, height = (
                shortened(printable(one.label, keep=""), 34 if beside else 28),
                1 - (place + text) / len(rows),
            )
            figure.text(0, height, name, color=svg.TEXT, va="center_baseline")
            figure.text(1, height, one.text, color=svg.MUTED, ha="right", va="center_baseline")
            start = 0.0
            for value, colour in one.parts:
                axes.barh(place + bar, value, left=start, height=9 / row, color=colour, linewidth=0)
                start += value
            if one.mark is not None:
                axes.plot([one.mark] * 2, [place + bar - 7 / row, place + bar + 7 / row], color=svg.TEXT, linewidth=2)
        return as_svg(figure, label, kind_of(width))


def shortened(text: str, most: int) -> str:
    """A long name without its middle."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def both(drawn: Callable[[int], Markup]) -> Markup:
    """Draw something twice, for desks and for telephones; the page shows one of them."""
    return drawn(WIDE) + drawn(NARROW)


def kind_of(width: int) -> str:
    """Name the class of a drawing of that width."""
    return "wide" if width == WIDE else "narrow"

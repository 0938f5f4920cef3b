"""Curves over the epochs of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from qkd_deploy.report import svg
from qkd_deploy.report.charts import WIDE, both, kind_of, thinned
from qkd_deploy.report.svg import as_svg, drawing
from qkd_deploy.report.tables import number

_POINTS = 1000
"""Of one line."""
_LOGARITHMIC_FROM = 20
"""Ratio between the largest and the smallest value from which an axis is logarithmic."""


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: of the curve, for its legend.
        colour: one of ``svg``'s.
        dashes: "solid", "dashed", "dotted" or "dashdot".
        points: values by epoch of the run.
        joins: epochs without a value that a line may bridge between two phases.
    """

    name: str
    colour: str
    dashes: str = "solid"
    points: Mapping[int, float] = field(default_factory=dict)
    joins: int = 1

    @property
    def variable(self) -> str:
        """The CSS variable of the colour."""
        return svg.VARIABLES[self.colour]


def curves(
    series: Sequence[Series],
    spans: Sequence[range],
    label: str,
    unit: str,
    bounds: tuple[float, float] | None = None,
) -> Markup:
    """Draw curves over the epochs of a run, once for desks and once for telephones.

    Args:
        series: the curves.
        spans: the epochs of each phase, which are shaded and numbered.
        label: says what is shown.
        unit: of the values.
        bounds: of the values that are in sight; all of them where it is None.
    """
    return both(lambda width: _curves(series, spans, label, unit, bounds, width))


def _curves(
    series: Sequence[Series],
    spans: Sequence[range],
    label: str,
    unit: str,
    bounds: tuple[float, float] | None,
    width: int,
) -> Markup:
    height = 320 if width == WIDE else 260
    with drawing(width, height) as figure:
        axes = figure.add_axes((52 / width, 40 / height, 1 - 60 / width, 1 - 66 / height))
        _shade(axes, spans)
        values = [value for one in series for value in one.points.values() if math.isfinite(value)]
        for one in series:
            _draw(axes, one, spans)
        if bounds is not None:
            axes.set_ylim(bounds)
        elif values and min(values) > 0 and max(values) > _LOGARITHMIC_FROM * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(lambda value, _: number(value))
        else:
            axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        axes.set_xlim(0.5, max((span.stop for span in spans), default=2) - 0.5)
        axes.grid(axis="y", color=svg.GRID, linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(9 if width == WIDE else 5, integer=True))
        axes.tick_params(length=0, pad=6)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("epoch", loc="right", labelpad=2)
        axes.text(0, 1.03, unit, transform=axes.transAxes, color=svg.MUTED, ha="left")
        return as_svg(figure, label, kind_of(width))


def _draw(axes: Axes, one: Series, spans: Sequence[range]) -> None:
    """A line for each phase in which the curve has values, joined where phases follow each other."""
    style: dict[str, Any] = {"color": one.colour, "linestyle": one.dashes, "linewidth": 2}
    marker = "o" if len(one.points) <= 40 else ""
    pieces: list[list[int]] = []
    for span in spans:
        epochs = [epoch for epoch in span if epoch in one.points]
        if epochs and pieces and pieces[-1][-1] >= span.start - one.joins:
            pieces[-1].extend(epochs)
        elif epochs:
            pieces.append(epochs)
    for piece in pieces:
        epochs = thinned(piece, _POINTS)
        axes.plot(epochs, [one.points[epoch] for epoch in epochs], marker=marker, markersize=3.5, **style)


def _shade(axes: Axes, spans: Sequence[range]) -> None:
    """Every second phase gets a band, and all their number."""
    for place, span in enumerate(spans, start=1):
        if place % 2 == 0:
            axes.axvspan(span.start - 0.5, span.stop - 0.5, color=svg.BAND, linewidth=0, zorder=0)
        middle = (span.start + span.stop - 1) / 2
        axes.text(
            middle, 1.03, str(place), transform=axes.get_xaxis_transform(), color=svg.TEXT, ha="center", weight="bold"
        )

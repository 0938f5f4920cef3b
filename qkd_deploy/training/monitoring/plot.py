"""The plot of a run: losses, accuracy, learning rates and movement of steps over all its epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from qkd_deploy.atomic import atomic_write
from qkd_deploy.errors import UserError
from qkd_deploy.training.monitoring.metrics import EpochRecord, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"student": "tab:blue", "teacher": "tab:orange", "weight_steps": "tab:green", "activation_steps": "tab:red"}
_LINES = ("-", "--", ":", "-.")
_SHADES = ("0.95", "0.89")
_LOGARITHMIC_FROM = 20
"""Ratio between the largest and the smallest value from which an axis is logarithmic."""
_LARGEST_RATIO = 1e4
"""Of a logarithmic axis, where every curve is then in sight: the end of a cosine schedule would take all the room."""


@dataclass
class _Curve:
    """One line: its values by epoch of the run. Epochs without a value are gaps, or bridged where ``gaps`` is False."""

    label: str
    colour: str
    line: str = "-"
    gaps: bool = True
    points: dict[int, float] = field(default_factory=dict)

    def draw(self, axes: Axes, stages: Sequence[range]) -> None:
        marker = "." if len(self.points) <= 60 else ""
        pieces = [stage for stage in stages if any(epoch in self.points for epoch in stage)]
        for number, stage in enumerate(pieces):
            epochs = [epoch for epoch in stage if self.gaps or epoch in self.points]
            axes.plot(
                epochs,
                [self.points.get(epoch, float("nan")) for epoch in epochs],
                label=self.label if number == 0 else None,
                color=self.colour,
                linestyle=self.line,
                marker=marker,
                linewidth=1.5,
            )


def plot_run(folder: Path | str) -> Path:
    """Draw ``plot.png`` in the folder of a run, finished or not, from its ``metrics.jsonl``.

    Returns:
        The path of the picture, which is written atomically.

    Raises:
        UserError: there is nothing to plot, or the picture cannot be written.
    """
    from matplotlib.figure import Figure

    source, target = Path(folder, "metrics.jsonl"), Path(folder, "plot.png")
    records = read_metrics(source)
    if not records:
        raise UserError(f"{source} holds no finished epoch to plot; wait for the first one")
    measure = f"held-out {records[-1].measure} [%]"
    panels = {
        "loss": _loss_curves(records),
        measure: _accuracy_curves(records),
        "learning rate": _named_curves(record.learning_rates for record in records),
        "relative movement of\nsteps per epoch (mean)": _named_curves(record.step_movement for record in records),
    }
    figure = Figure(figsize=(10, 11), layout="constrained")
    figure.suptitle(target.resolve().parent.name)
    all_axes: Sequence[Axes] = figure.subplots(len(panels), sharex=True)
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
        _panel(axes, title, curves, records)
    _focus(all_axes[1], panels[measure])
    _name_phases(all_axes[0], records)
    all_axes[-1].set_xlabel("epoch of the run")
    all_axes[-1].set_xlim(0.5, len(records) + 0.5)
    all_axes[-1].locator_params(axis="x", integer=True)
    with atomic_write(target) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return target


def _panel(axes: Axes, title: str, curves: list[_Curve], records: list[EpochRecord]) -> None:
    for index, phase in enumerate(_spans(records, lambda record: (record.stage, record.phase))):
        axes.axvspan(phase[0] - 0.5, phase[-1] + 0.5, color=_SHADES[index % 2], linewidth=0)
    stages = _spans(records, lambda record: record.stage)
    curves = sorted(curves, key=lambda curve: curve.label)
    for curve in curves:
        curve.draw(axes, stages)
    values = [value for curve in curves for value in curve.points.values()]
    if values and min(values) > 0 and max(values) > _LOGARITHMIC_FROM * min(values):
        axes.set_yscale("log")
        lowest_top = min(max(curve.points.values()) for curve in curves)
        bottom = min(max(values) / _LARGEST_RATIO, lowest_top / 10)
        axes.set_ylim(bottom=max(bottom, min(values) / 2))
    axes.set_ylabel(title)
    axes.grid(axis="y", color="0.8", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    if curves:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _focus(axes: Axes, curves: list[_Curve]) -> None:
    """Show the range in which integer accuracies lie and float ones end, not the way up from chance."""
    values: list[float] = []
    for curve in curves:
        found = list(curve.points.values())
        values += found if curve.line == "-" else [max(found)]
    if values:
        margin = 0.1 * (max(values) - min(values)) or 0.5
        axes.set_ylim(min(values) - margin, max(values) + margin)


def _name_phases(axes: Axes, records: list[EpochRecord]) -> None:
    """Slanted names above the phases, so that those of short phases do not overlap."""
    for phase in _spans(records, lambda record: (record.stage, record.phase)):
        axes.annotate(
            records[phase[0] - 1].phase,
            ((phase[0] + phase[-1]) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            rotation=20,
            rotation_mode="anchor",
        )


def _spans(records: list[EpochRecord], key: Callable[[EpochRecord], object]) -> list[range]:
    """Epochs of the run, from 1, in stretches of equal ``key``."""
    spans, first = [], 1
    for _, group in groupby(records, key=key):
        spans.append(range(first, first + len(list(group))))
        first = spans[-1].stop
    return spans


def _loss_curves(records: list[EpochRecord]) -> list[_Curve]:
    curves: dict[tuple[str, str], _Curve] = {}
    lines: dict[str, str] = {}
    for epoch, record in enumerate(records, start=1):
        for role, terms in record.losses.items():
            for term, value in terms.items():
                line = lines.setdefault(term, _LINES[len(lines) % len(_LINES)])
                curve = curves.setdefault((role, term), _Curve(f"{role} {term}", _colour(role), line))
                curve.points[epoch] = value
    return list(curves.values())


def _accuracy_curves(records: list[EpochRecord]) -> list[_Curve]:
    curves: dict[str, _Curve] = {}
    for epoch, record in enumerate(records, start=1):
        if record.accuracy is None:
            continue
        if record.measured == "integer":
            curve = _Curve("integer model", _colour("student"), gaps=False)
        else:
            curve = _Curve(f"float {record.measured}", _colour(record.measured), ":", gaps=False)
        curves.setdefault(curve.label, curve).points[epoch] = record.accuracy
    for curve in curves.values():
        values = list(curve.points.values())
        curve.label += f"\nbest {max(values):.2f}, last {values[-1]:.2f}"
    return list(curves.values())


def _named_curves(values: Iterable[Mapping[str, float]]) -> list[_Curve]:
    """Make one curve of each name, from the values by name of every epoch."""
    curves: dict[str, _Curve] = {}
    for epoch, named in enumerate(values, start=1):
        for name, value in named.items():
            curve = curves.setdefault(name, _Curve(name.replace("_", " "), _colour(name)))
            curve.points[epoch] = value
    return list(curves.values())


def _colour(name: str) -> str:
    return _COLOURS.get(name, "tab:purple")

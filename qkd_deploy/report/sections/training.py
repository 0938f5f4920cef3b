"""Losses and figures by phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from qkd_deploy.report import svg
from qkd_deploy.report.curves import Series, curves
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.tables import Plot, Table, number, percent
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.summary import summarize
from qkd_deploy.training.monitoring.wording import duration

_COLOURS: Mapping[str, str] = {"student": svg.BLUE, "teacher": svg.ORANGE}
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_ROWS = 150
"""Of a table of epochs; of longer runs some are left out."""
_WORDS: Mapping[str, str] = {
    "pretrain-teacher": "the teacher learns in full precision",
    "pretrain-student": "the student learns in full precision",
    "self-study": "the student, now with rounded numbers, learns from the labels alone",
    "co-study": "student and teacher learn from the labels and from each other",
    "tutor": "the teacher stands still, and the student imitates it",
    "qat": "the student, with rounded numbers, learns from the labels alone",
    "kd": "the student, with rounded numbers, imitates the teacher",
}


@dataclass(frozen=True)
class Phase:
    """A phase in words: number, name, what happens in it, its length, and the figure at its end."""

    number: int
    name: str
    words: str
    epochs: int
    seconds: str
    reached: str


@dataclass(frozen=True)
class Training:
    """The section: phases, and plots over all epochs."""

    phases: Sequence[Phase]
    plots: Sequence[Plot]
    measure: str


def training(findings: Findings) -> Training:
    """Draw the losses and the figures of a run with at least one epoch."""
    records = findings.records
    spans = [span for span, _ in _phases(records)]
    table = _table(records, findings.measure)
    losses, figures = _losses(records), _figures(records)
    plots = [
        _plot("Loss", losses, spans, "loss", table),
        _plot(f"Held-out {findings.measure}", figures, spans, "%", table, _bounds(figures)),
    ]
    return Training(tuple(_in_words(records)), [plot for plot in plots if plot.legend], findings.measure)


def phase_starts(records: Sequence[EpochRecord]) -> list[int]:
    """The epochs of the run, from 1, with which its phases begin."""
    return [span.start for span, _ in _phases(records)]


def _phases(records: Sequence[EpochRecord]) -> Iterator[tuple[range, str]]:
    first = 1
    for (_, name), group in groupby(records, key=lambda record: (record.stage, record.phase)):
        last = first + len(list(group))
        yield range(first, last), name
        first = last


def _in_words(records: list[EpochRecord]) -> Iterator[Phase]:
    for index, phase in enumerate(summarize(records), start=1):
        owner = "integer model" if phase.measured == "integer" else f"float {phase.measured}"
        reached = "" if phase.last is None else f"{owner} {percent(phase.last)}"
        yield Phase(index, phase.name, _WORDS.get(phase.name, ""), phase.epochs, duration(phase.seconds), reached)


def _bounds(figures: Sequence[Series]) -> tuple[float, float] | None:
    """The range in which integer models lie and float networks end, without the way up from chance."""
    values: list[float] = []
    for one in figures:
        found = list(one.points.values())
        values += found if one.dashes == "solid" else [max(found)]
    if not values:
        return None
    margin = 0.15 * (max(values) - min(values)) or 0.5
    return min(values) - margin, max(values) + margin


def _plot(
    title: str,
    series: list[Series],
    spans: Sequence[range],
    unit: str,
    table: Table,
    bounds: tuple[float, float] | None = None,
) -> Plot:
    label = f"{title} over the epochs of the run: {', '.join(one.name for one in series)}"
    legend = [(one.name, one.variable, one.dashes) for one in series]
    return Plot(title, curves(series, spans, label, unit, bounds), table, legend)


def _losses(records: Sequence[EpochRecord]) -> list[Series]:
    found: dict[tuple[str, str], dict[int, float]] = {}
    for epoch, record in enumerate(records, start=1):
        for role, terms in record.losses.items():
            for term, value in terms.items():
                found.setdefault((role, term), {})[epoch] = value
    kinds = dict.fromkeys(term for _, term in found)
    dashes = {term: _DASHES[place % len(_DASHES)] for place, term in enumerate(kinds)}
    return [
        Series(f"{role} {term}", _COLOURS.get(role, svg.VIOLET), dashes[term], points)
        for (role, term), points in found.items()
    ]


def _figures(records: Sequence[EpochRecord]) -> list[Series]:
    found: dict[str, dict[int, float]] = {}
    for epoch, record in enumerate(records, start=1):
        if record.accuracy is not None:
            found.setdefault(record.measured, {})[epoch] = record.accuracy
    looks = {"integer": (svg.GREEN, "solid"), "student": (svg.BLUE, "dashed"), "teacher": (svg.ORANGE, "dashed")}
    return [
        Series("integer model" if owner == "integer" else f"float {owner}", *looks[owner], points, len(records))
        for owner, points in found.items()
    ]


def _table(records: Sequence[EpochRecord], measure: str) -> Table:
    losses = list(dict.fromkeys((role, term) for r in records for role, terms in r.losses.items() for term in terms))
    step = -(-len(records) // _ROWS)
    rows = []
    for epoch, record in enumerate(records, start=1):
        if (epoch - 1) % step and epoch != len(records):
            continue
        values = [number(record.losses.get(role, {}).get(term)) for role, term in losses]
        rows.append([str(epoch), record.phase, *values, percent(record.accuracy), number(record.seconds, 3)])
    names = [f"{role} {term}#" for role, term in losses]
    every = "every epoch" if step == 1 else f"one of {step} epochs, and the last"
    return Table(
        f"Losses and held-out {measure}, {every}", ["epoch#", "phase", *names, f"{measure}#", "seconds#"], rows
    )

"""The scales of all quantized tensors over the epochs of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qkd_deploy.report.charts import sparkline
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.sections.training import phase_starts
from qkd_deploy.report.tables import Card, Cards, Table, change, number
from qkd_deploy.training.monitoring.metrics import EpochRecord

_SETTLED = 0.02
"""Largest relative movement of a scale in the last epoch of a run that has settled."""


@dataclass(frozen=True)
class Scales:
    """The section: weights and activations, how many of all still move, and the epochs that recorded them."""

    groups: Sequence[Cards]
    tensors: int
    moving: int
    epochs: int


@dataclass(frozen=True)
class _History:
    """The scale of one tensor after each epoch."""

    name: str
    values: list[float]

    @property
    def last_movement(self) -> float:
        if len(self.values) < 2:
            return 0.0
        return abs(math.log(self.values[-1] / self.values[-2]))

    @property
    def moving(self) -> bool:
        return self.last_movement > _SETTLED


def scales(findings: Findings, most: int) -> Scales | None:
    """Draw the scales of a run, at most so many of a kind, the most restless; None where no epoch recorded any."""
    first = next((place for place, record in enumerate(findings.records) if record.steps), None)
    if first is None:
        return None
    records = findings.records[first:]
    starts = [start - 1 - first for start in phase_starts(findings.records) if start - 1 > first]
    histories = [_history(name, records) for name in records[-1].steps]
    weights = [one for one in histories if one.name.endswith(".weight")]
    activations = [one for one in histories if not one.name.endswith(".weight")]
    groups = [
        _cards(title, found, records, starts, most)
        for title, found in (("Weights", weights), ("Activations", activations))
        if found
    ]
    return Scales(groups, len(histories), sum(one.moving for one in histories), len(records))


def _history(name: str, records: Sequence[EpochRecord]) -> _History:
    return _History(name, [record.steps[name] for record in records if record.steps.get(name, 0) > 0])


def _cards(
    title: str, histories: list[_History], records: Sequence[EpochRecord], starts: Sequence[int], most: int
) -> Cards:
    drawn = {one.name for one in sorted(histories, key=lambda one: -one.last_movement)[:most]}
    cards = [_card(one, starts) for one in histories if one.name in drawn and one.values]
    return Cards(title, cards, _table(title, histories, records, starts), len(histories) - len(cards))


def _card(one: _History, starts: Sequence[int]) -> Card:
    before, after = one.values[0], one.values[-1]
    label = f"Scale of {one.name} from {number(before, 3)} to {number(after, 3)}"
    warnings = [f"moved {100 * one.last_movement:.1f} % in the last epoch"] if one.moving else []
    lines = [f"{number(before, 3)} → {number(after, 3)}", change(before, after)]
    if len(one.values) < 2:
        lines = [number(after, 3)]
    return Card(one.name, sparkline(one.values, starts, label), lines, warnings)


def _table(title: str, histories: list[_History], records: Sequence[EpochRecord], starts: Sequence[int]) -> Table:
    """The scale at the beginning, at the end of each phase, and by how much it changed."""
    ends = [*(start - 1 for start in starts), len(records) - 1]
    names = [f"end of {records[end].phase}#" for end in ends]
    rows = []
    for one in histories:
        at_ends = [number(records[end].steps.get(one.name)) for end in ends]
        known = bool(one.values)
        whole = change(one.values[0], one.values[-1]) if known else "–"
        rows.append([one.name, number(one.values[0] if known else None), *at_ends, whole])
    return Table(f"Scales of {title.lower()}", ["tensor", "after the first epoch#", *names, "change#"], rows)

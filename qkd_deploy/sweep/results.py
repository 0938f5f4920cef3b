"""Write the results of a sweep: one row per combination, over its seeds, as JSON and Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qkd_deploy.atomic import atomic_write
from qkd_deploy.sweep.entry import EntryResult
from qkd_deploy.sweep.plan import Entry, Plan, shown

_SEED = "seed"


@dataclass(frozen=True)
class Combination:
    """The results of all entries that differ only in their seed.

    Attributes:
        axes: its place in the grid.
        runs: entries in the grid.
        verified: those that ran and passed ``verify``; only they count in what follows.
        mean, deviation, low, high: of their accuracy, in percent; the deviation is that of a sample, and needs two.
        float_accuracy: mean of the full-precision starts, where their files tell.
        measure: what is measured: "accuracy" of classifiers.
        further: means of the other figures that the task measures, by name: of the files, and of their starts.
        float_operations: the largest number of operators in float.
    """

    axes: dict[str, Any]
    runs: int
    verified: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    float_accuracy: float | None
    float_operations: int | None
    measure: str = "accuracy"
    further: dict[str, tuple[float, float | None]] = field(default_factory=dict)


def combinations(entries: Sequence[Entry], results: dict[str, EntryResult]) -> list[Combination]:
    """Group entries by combination, in the order of the grid; entries without a result have not run."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(json.dumps(_without_seed(entry.axes)), []).append(entry)
    return [_combination(group, results) for group in groups.values()]


def _combination(group: list[Entry], results: dict[str, EntryResult]) -> Combination:
    passed = [result for entry in group if (result := results.get(entry.id)) is not None and result.verified]
    values = [result.accuracy for result in passed if result.accuracy is not None]
    starts = [result.float_accuracy for result in passed if result.float_accuracy is not None]
    return Combination(
        axes=_without_seed(group[0].axes),
        runs=len(group),
        verified=len(passed),
        mean=statistics.fmean(values) if values else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        low=min(values, default=None),
        high=max(values, default=None),
        float_accuracy=statistics.fmean(starts) if starts else None,
        float_operations=max((result.float_operations or 0 for result in passed), default=None),
        measure=passed[0].measure if passed else "accuracy",
        further=_further(passed),
    )


def _further(passed: Sequence[EntryResult]) -> dict[str, tuple[float, float | None]]:
    names = list(passed[0].figures)[1:] if passed else []
    means: dict[str, tuple[float, float | None]] = {}
    for name in names:
        starts = [result.float_figures[name] for result in passed if name in result.float_figures]
        reached = statistics.fmean(result.figures[name] for result in passed)
        means[name] = reached, statistics.fmean(starts) if starts else None
    return means


def _without_seed(axes: dict[str, Any]) -> dict[str, Any]:
    return {axis: value for axis, value in axes.items() if axis != _SEED}


def write_results(folder: Path, plan: Plan, results: dict[str, EntryResult], provenance: dict[str, Any]) -> None:
    """Write ``results.json`` and ``results.md`` with the results so far.

    Raises:
        UserError: the folder cannot be written.
    """
    rows = combinations(plan.entries, results)
    common, differing = _settings(plan)
    content = {
        "sweep": plan.file.name,
        "provenance": provenance,
        "settings": common,
        "verify": asdict(plan.verify),
        "combinations": [asdict(row) for row in rows],
        "entries": [
            {"axes": entry.axes, "settings": differing[entry.id], **_plain(results.get(entry.id))}
            for entry in plan.entries
        ],
    }
    texts = {
        "results.json": json.dumps(content, indent=2) + "\n",
        "results.md": _markdown(plan, rows, results, provenance),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _plain(result: EntryResult | None) -> dict[str, Any]:
    return {"failure": "not run yet", "verified": False} if result is None else asdict(result)


def _settings(plan: Plan) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Divide the resolved settings into those that all entries share and, by entry, the others."""
    resolved = {entry.id: asdict(entry.config) for entry in plan.entries}
    first = next(iter(resolved.values()))
    shared = {key for key, value in first.items() if all(other[key] == value for other in resolved.values())}
    differing = {
        name: {key: value for key, value in settings.items() if key not in shared}
        for name, settings in resolved.items()
    }
    return {key: value for key, value in first.items() if key in shared}, differing


def table(rows: Sequence[Combination]) -> tuple[list[str], list[list[str]]]:
    """Lay out header and cells of the results, as text."""
    axes = list(rows[0].axes)
    further = list(dict.fromkeys(name for row in rows for name in row.further))
    header = [*axes, _measure(rows), "deviation", "min .. max", "verified", "float start", "float operations"]
    header += [column for name in further for column in (name, f"{name} of the float start")]
    return header, [[shown(row.axes[axis]) for axis in axes] + _cells(row) + _others(row, further) for row in rows]


def _measure(rows: Sequence[Combination]) -> str:
    return " or ".join(dict.fromkeys(row.measure for row in rows if row.verified)) or "accuracy"


def _others(row: Combination, names: Sequence[str]) -> list[str]:
    return [_number(figure) for name in names for figure in row.further.get(name, (None, None))]


def _cells(row: Combination) -> list[str]:
    spread = "" if row.low is None or row.deviation is None else f"{row.low:.2f} .. {row.high:.2f}"
    operations = "" if row.float_operations is None else str(row.float_operations)
    counted = f"{row.verified} of {row.runs}"
    return [_number(row.mean), _number(row.deviation), spread, counted, _number(row.float_accuracy), operations]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _markdown(
    plan: Plan, rows: Sequence[Combination], results: dict[str, EntryResult], provenance: dict[str, Any]
) -> str:
    header, cells = table(rows)
    versions = ", ".join(f"{name} {version}" for name, version in provenance["packages"].items())
    lines = [
        f"# {plan.file.name}",
        "",
        f"{_measure(rows).replace('accuracy', 'Accuracy')} in percent, as ONNX Runtime measures it on the exported "
        "integer files; only runs that passed",
        "`qkd-deploy verify` count. The deviation is that of a sample over seeds.",
        "",
        *(_line(row) for row in (header, ["---"] * len(header), *cells)),
        "",
        f"`{provenance['command']}`, {provenance['date']}, commit {provenance['commit']}, {versions}, "
        f"{provenance['cpu']['model']}.",
    ]
    failed = [(entry, result) for entry in plan.entries if (result := results.get(entry.id)) and not result.verified]
    if failed:
        lines += ["", "Not verified:", ""]
        lines += [f"- {entry.label} (`{entry.id}`): {' '.join(result.failure.split())}" for entry, result in failed]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

"""The summary of a run as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table

from qkd_deploy.training.monitoring.metrics import EpochRecord, read_metrics
from qkd_deploy.training.monitoring.wording import duration, loss_text

_FILES = ("model.pt", "teacher.pt", "config.toml", "metrics.jsonl", "plot.png", "events")


@dataclass(frozen=True)
class PhaseSummary:
    """One phase of a run.

    Attributes:
        name: as in the metrics.
        epochs: how many it had.
        losses: in its last epoch.
        measure, measured: what the figures are, and of which network; see ``EpochRecord``.
        best, last: the highest and the latest figure in percent; None where it was never measured.
        seconds: wall-clock time, interruptions left out.
    """

    name: str
    epochs: int
    losses: dict[str, dict[str, float]]
    measure: str
    measured: str
    best: float | None
    last: float | None
    seconds: float


def summarize(records: list[EpochRecord]) -> Iterator[PhaseSummary]:
    """The phases of a run in the order in which they ran."""
    for (_, name), group in groupby(records, key=lambda record: (record.stage, record.phase)):
        epochs = list(group)
        measured = [record.accuracy for record in epochs if record.accuracy is not None]
        yield PhaseSummary(
            name=name,
            epochs=len(epochs),
            losses=epochs[-1].losses,
            measure=epochs[-1].measure,
            measured=epochs[-1].measured,
            best=max(measured, default=None),
            last=measured[-1] if measured else None,
            seconds=sum(record.seconds for record in epochs),
        )


def print_summary(console: Console, folder: Path, teacher_accuracy: float | None) -> None:
    """Print what the run in ``folder`` did, what its teacher reaches in full precision, and where its files are.

    Args:
        console: a terminal gets lines and colours, anything else plain text.
        folder: of the run, finished or not.
        teacher_accuracy: percent, after the run; None where there is no teacher.

    Raises:
        UserError: its ``metrics.jsonl`` cannot be read.
    """
    phases = list(summarize(read_metrics(folder / "metrics.jsonl")))
    console.print(summary_table(phases, boxed=console.is_terminal), highlight=False)
    lines = [] if teacher_accuracy is None else [f"teacher: {teacher_accuracy:.2f} % in full precision"]
    there = [name for name in _FILES if (folder / name).exists()]
    for line in (*lines, f"files in {folder}: {', '.join(there)}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)  # a path is never broken


def summary_table(phases: Sequence[PhaseSummary], *, boxed: bool = True) -> Table:
    """One row per phase; ``boxed`` with lines and bold headings."""
    table = Table(
        title=f"{sum(phase.epochs for phase in phases)} epochs in {duration(sum(phase.seconds for phase in phases))}",
        title_justify="left",
        title_style="bold" if boxed else "",
        header_style="bold" if boxed else "",
        box=ROUNDED if boxed else None,
        pad_edge=boxed,
    )
    measure = phases[-1].measure if phases else "accuracy"
    for name in ("phase", "epochs", "losses at the end", f"{measure} of", "best", "last", "time"):
        table.add_column(name, justify="right" if name in ("epochs", "best", "last", "time") else "left")
    for phase in phases:
        table.add_row(
            phase.name,
            str(phase.epochs),
            loss_text(phase.losses),
            "integer model" if phase.measured == "integer" else f"float {phase.measured}",
            _percent(phase.best),
            _percent(phase.last),
            duration(phase.seconds),
        )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"

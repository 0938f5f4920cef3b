"""The summary of a run as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from qkd_deploy.training.metrics import EpochRecord, read_metrics
from qkd_deploy.training.progress import duration, loss_text

if TYPE_CHECKING:
    from rich.table import Table

_FILES = ("model.pt", "teacher.pt", "config.toml", "metrics.jsonl", "plot.png", "events")


@dataclass(frozen=True)
class PhaseSummary:
    """One phase of a run.

    Attributes:
        name: as in the metrics.
        epochs: how many it had.
        losses: in its last epoch.
        measured: what the accuracies are of; see ``EpochRecord``.
        best, last: the highest and the latest accuracy in percent; None where it was never measured.
        seconds: wall-clock time, interruptions left out.
    """

    name: str
    epochs: int
    losses: dict[str, dict[str, float]]
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
            measured=epochs[-1].measured,
            best=max(measured, default=None),
            last=measured[-1] if measured else None,
            seconds=sum(record.seconds for record in epochs),
        )


def summary_table(folder: Path, teacher_accuracy: float | None = None, *, boxed: bool = True) -> Table:
    """One row per phase of the run in ``folder``; below it, the teacher's accuracy and where the files are.

    Args:
        folder: of the run, finished or not.
        teacher_accuracy: percent, of the full-precision teacher after the run; None where there is none.
        boxed: with lines and colours, for terminals.

    Raises:
        UserError: its ``metrics.jsonl`` cannot be read.
    """
    from rich.box import ROUNDED
    from rich.table import Table

    phases = list(summarize(read_metrics(folder / "metrics.jsonl")))
    table = Table(
        title=f"{sum(phase.epochs for phase in phases)} epochs in {duration(sum(phase.seconds for phase in phases))}",
        title_justify="left",
        caption=_caption(folder, teacher_accuracy),
        caption_justify="left",
        caption_style="",
        title_style="bold" if boxed else "",
        header_style="bold" if boxed else "",
        box=ROUNDED if boxed else None,
        pad_edge=boxed,
    )
    for name in ("phase", "epochs", "losses at the end", "accuracy of", "best", "last", "time"):
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


def _caption(folder: Path, teacher_accuracy: float | None) -> str:
    from rich.markup import escape

    there = [name for name in _FILES if (folder / name).exists()]
    lines = [] if teacher_accuracy is None else [f"teacher: {teacher_accuracy:.2f} % in full precision"]
    return "\n".join([*lines, f"files in {escape(str(folder))}: {', '.join(there)}"])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"

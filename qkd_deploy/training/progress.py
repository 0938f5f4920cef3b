"""What the user sees of a run, on stderr: rich progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from qkd_deploy.training.metrics import EpochRecord


class RunProgress(Protocol):
    """Receives what happens in a run."""

    def message(self, text: str) -> None:
        """One line of information."""

    def batches(self, title: str, done: int, total: int, losses: str) -> None:
        """``done`` of ``total`` batches of an epoch are finished."""

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """An epoch is finished; ``seconds_left`` is the estimate for the rest of its stage."""

    def close(self) -> None:
        """Nothing more follows."""


class NoProgress:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Ignore."""

    def batches(self, title: str, done: int, total: int, losses: str) -> None:
        """Ignore."""

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """Ignore."""

    def close(self) -> None:
        """Ignore."""


class PlainProgress(NoProgress):
    """One line per message and per epoch, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr

    def message(self, text: str) -> None:
        """Print the line."""
        print(text, file=self._stream, flush=True)

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """Print the epoch's summary."""
        self.message(epoch_line(record, seconds_left))


class TerminalProgress:
    """A bar for the running epoch, and one line above it for each finished one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[losses]}"))
        self._bars = Progress(*columns, console=console, transient=True)
        self._task: TaskID = self._bars.add_task("", total=1, losses="", visible=False)
        self._bars.start()

    def message(self, text: str) -> None:
        """Print the line above the bar."""
        self._console.print(text, highlight=False, markup=False)

    def batches(self, title: str, done: int, total: int, losses: str) -> None:
        """Move the bar."""
        self._bars.update(self._task, description=title, completed=done, total=total, losses=losses, visible=True)

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """Print the epoch's summary above the bar."""
        self.message(epoch_line(record, seconds_left))

    def close(self) -> None:
        """Remove the bar."""
        self._bars.stop()


def progress_on_stderr() -> RunProgress:
    """The progress that suits stderr."""
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal else PlainProgress()


def loss_text(losses: dict[str, dict[str, float]]) -> str:
    """Losses in a few words, such as ``student ce 0.312 kl 0.118``."""
    parts = []
    for role, terms in losses.items():
        parts.append(role + "".join(f" {name} {value:.3f}" for name, value in terms.items()))
    return "  ".join(parts)


def epoch_line(record: EpochRecord, seconds_left: float) -> str:
    """The summary of an epoch as one line."""
    title = record.phase if record.phase == record.stage else f"{record.stage}/{record.phase}"
    accuracy = "" if record.accuracy is None else f"  accuracy {record.accuracy:.2f} %"
    left = f"  {duration(seconds_left)} left" if record.epoch < record.epochs else ""
    return f"{title}  epoch {record.epoch}/{record.epochs}  {loss_text(record.losses)}{accuracy}{left}"


def duration(seconds: float) -> str:
    """A rounded duration, such as ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

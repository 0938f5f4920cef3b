"""The progress of a run on stderr: rich progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from qkd_deploy.console import PlainTextConsole
from qkd_deploy.errors import printable
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.summary import print_summary
from qkd_deploy.training.monitoring.wording import epoch_line, speed_text

_WIDTH_OF_PIPES = 140


class RunProgress(Protocol):
    """Receives what happens in a run."""

    def message(self, text: str) -> None:
        """One line of information."""

    def epoch_begins(self, stage: str, epoch: int, epochs: int, images: int) -> None:
        """Epoch number ``epoch`` of a stage's ``epochs`` begins and will train on ``images`` images."""

    def batches(self, title: str, done: int, total: int, losses: str) -> None:
        """``done`` of ``total`` batches of an epoch are finished."""

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """An epoch is finished; ``seconds_left`` is the estimate for the rest of its stage."""

    def summary(self, folder: Path, teacher_accuracy: float | None) -> None:
        """The run in ``folder`` is finished; ``teacher_accuracy`` as for ``print_summary``."""

    def close(self) -> None:
        """Nothing more follows."""


class NoProgress:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Ignore."""

    def epoch_begins(self, stage: str, epoch: int, epochs: int, images: int) -> None:
        """Ignore."""

    def batches(self, title: str, done: int, total: int, losses: str) -> None:
        """Ignore."""

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """Ignore."""

    def summary(self, folder: Path, teacher_accuracy: float | None) -> None:
        """Ignore."""

    def close(self) -> None:
        """Ignore."""


class _Speed:
    """Throughput since the epoch began."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, images: int) -> None:
        self._images = images
        self._began = time.monotonic()

    def text(self, share: float) -> str:
        """Images per second after ``share`` of the epoch; nothing where the number of images was not told."""
        seconds = time.monotonic() - self._began
        return speed_text(share * self._images / seconds) if self._images and share and seconds else ""


class PlainProgress(NoProgress):
    """One line per message and per epoch, for logs and pipes, and one a minute within long epochs.

    Args:
        stream: where to; stderr by default.
        every: seconds between two lines within an epoch.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 60) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._every = every
        self._last = time.monotonic()
        self._speed = _Speed()

    def message(self, text: str) -> None:
        """Print the line."""
        self._last = time.monotonic()
        print(printable(text), file=self._stream, flush=True)

    def epoch_begins(self, stage: str, epoch: int, epochs: int, images: int) -> None:
        """Note it."""
        self._speed.begin(images)

    def batches(self, title: str, done: int, total: int, losses: str) -> None:
        """Print a line if the last one is long ago."""
        if time.monotonic() - self._last >= self._every:
            parts = (title, f"batch {done}/{total}", self._speed.text(done / total), losses)
            self.message("  ".join(part for part in parts if part))

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """Print the epoch's summary."""
        self.message(epoch_line(record, seconds_left))

    def summary(self, folder: Path, teacher_accuracy: float | None) -> None:
        """Print the run's summary, aligned, without lines and colours."""
        console = PlainTextConsole(file=self._stream, width=_WIDTH_OF_PIPES, force_terminal=False, no_color=True)
        print_summary(console, folder, teacher_accuracy)


class TerminalProgress:
    """A bar for the stage and one for the running epoch, and one line above them for each finished epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            speed_estimate_period=600,
        )
        self._stage: TaskID = self._bars.add_task("", visible=False, count="", detail="")
        self._epoch: TaskID = self._bars.add_task("", visible=False, count="", detail="")
        self._running = ""
        self._finished = 0
        self._speed = _Speed()
        self._bars.start()

    def message(self, text: str) -> None:
        """Print the line above the bars."""
        self._console.print(text, highlight=False, markup=False)

    def epoch_begins(self, stage: str, epoch: int, epochs: int, images: int) -> None:
        """Show the stage's bar; that of the epoch follows with its first batches."""
        if stage != self._running:
            self._running = stage
            self._bars.reset(self._stage, total=epochs, completed=epoch - 1, description=stage, visible=True)
        self._finished = epoch - 1
        self._bars.update(self._stage, completed=self._finished, count=f"epoch {epoch}/{epochs}")
        self._bars.reset(self._epoch, visible=False)
        self._speed.begin(images)

    def batches(self, title: str, done: int, total: int, losses: str) -> None:
        """Move the bars."""
        detail = "  ".join(part for part in (self._speed.text(done / total), losses) if part)
        count = f"batch {done}/{total}"
        self._bars.update(
            self._epoch, description=title, total=total, completed=done, count=count, detail=detail, visible=True
        )
        self._bars.update(self._stage, completed=self._finished + done / total)

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        """Print the epoch's summary above the bars."""
        self._finished = record.epoch
        self._bars.update(self._stage, completed=self._finished)
        self.message(epoch_line(record, seconds_left))

    def summary(self, folder: Path, teacher_accuracy: float | None) -> None:
        """Print the run's summary as a table."""
        print_summary(self._console, folder, teacher_accuracy)

    def close(self) -> None:
        """Remove the bars."""
        self._bars.stop()


def progress_on_stderr() -> RunProgress:
    """Choose the progress that suits stderr: bars on a terminal, lines elsewhere."""
    console = PlainTextConsole(stderr=True)
    return TerminalProgress(console) if console.is_terminal else PlainProgress()

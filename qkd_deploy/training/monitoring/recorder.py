"""The recorder of all that a run leaves for its user to look at: ``metrics.jsonl``, TensorBoard's events and a plot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qkd_deploy.training.monitoring.events import EventFiles
from qkd_deploy.training.monitoring.metrics import EpochRecord, MetricsFile
from qkd_deploy.training.monitoring.observation import Observation
from qkd_deploy.training.monitoring.plot import plot_run


class RunRecorder:
    """Records the epochs of a run in its folder.

    ``metrics.jsonl`` is part of the run: where it cannot be written, the run stops. Events and plot are not: where they
    fail, a warning says so once and training goes on.

    Args:
        folder: of the run; it exists.
        keep: epochs of earlier processes to keep, as the checkpoint to continue from knows them; 0 for a new run.
        warn: is told, in a sentence, what could not be recorded.
        active: False for a process that only takes part in training and leaves the recording to another.

    Attributes:
        lines: epochs recorded so far, those kept included.

    Raises:
        UserError: ``metrics.jsonl`` cannot be read or written.
    """

    def __init__(self, folder: Path, keep: int, *, warn: Callable[[str], None], active: bool = True) -> None:
        self._folder = folder
        self._warn = warn
        self._metrics = MetricsFile(folder / "metrics.jsonl", keep) if active else None
        self._events: EventFiles | None = None
        self._events_work = True
        self.lines = self._metrics.lines if self._metrics is not None else keep

    @property
    def digest(self) -> str:
        """SHA-256 of the epochs in ``metrics.jsonl``; "" in a process that does not record."""
        return "" if self._metrics is None else self._metrics.digest

    def epoch(self, record: EpochRecord, observation: Observation | None = None) -> None:
        """Record one epoch, with what was observed of the quantizers after it.

        On return it is in the files, so that a checkpoint may count on it.

        Raises:
            UserError: ``metrics.jsonl`` cannot be written, as on a full disk.
        """
        self.lines += 1
        if self._metrics is None:
            return
        complete = record if observation is None else observation.added_to(record)
        self._metrics.write(complete)
        if self._events_work:
            self._events_work = self._try("TensorBoard events", lambda: self._write_events(complete, observation))

    def close(self) -> None:
        """Close the files and draw the plot."""
        if self._metrics is None:
            return
        self._metrics.close()
        if self._events is not None:
            events = self._events
            self._try("TensorBoard events", events.close, quiet=not self._events_work)
        if self.lines:
            self._try("the plot", lambda: plot_run(self._folder))

    def _write_events(self, record: EpochRecord, observation: Observation | None) -> None:
        if self._events is None:
            self._events = EventFiles(self._folder / "events", first_step=self.lines)
        self._events.write(self.lines, record, observation)

    def _try(self, what: str, action: Callable[[], object], *, quiet: bool = False) -> bool:
        """Do ``action``; where it fails, tell the user and return False."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever fails in there, training must go on
            if not quiet:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._warn(f"warning: {what} could not be written and will be missing: {reason}")
            return False
        return True

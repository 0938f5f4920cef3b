"""The stages of a run, trained one after the other, recorded, and continued where a killed process left them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from qkd_deploy.data.sets.files import file_digest
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.loop import PhaseLoop
from qkd_deploy.training.loop.stage import LoopOptions, Stage
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.progress import RunProgress
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor
from qkd_deploy.training.monitoring.recorder import RunRecorder
from qkd_deploy.training.run_data import RunData
from qkd_deploy.training.run_folder import RunFolder
from qkd_deploy.training.start.run_state import RunState, damaged


class StageRunner:
    """Trains stages, and leaves after every epoch what continues the run from there.

    Args:
        config: of the run.
        data: of the run.
        observed: a normalised batch that quantizers are observed on.
        folder: of the run, opened.
        progress: receives what happens.
        processes: that train together; the first one writes.
        start: the state to go on from.

    Raises:
        UserError: the state is none of the run's stages, or the metrics of an earlier process cannot be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: RunData,
        observed: Tensor,
        folder: RunFolder,
        progress: RunProgress,
        processes: Processes,
        start: RunState,
    ) -> None:
        self._config = config
        self._data = data
        self._observed = observed
        self._folder = folder
        self._progress = progress
        self._processes = processes
        self._options = LoopOptions(
            bf16=config.precision == "bf16",
            compiled=config.compile,
            channels_last=config.channels_last,
            accumulate=config.accumulate,
        )
        self._start = start
        stage = None if start.loop is None else start.loop.get("stage")
        if stage not in (None, "pretrain-teacher", "pretrain-student", config.method):
            raise damaged(folder.last, ValueError(f"a stage {stage!r}"))
        self._files = dict(start.files)
        self._recorder = RunRecorder(folder.path, start.lines, warn=progress.message, active=processes.writes)

    def has(self, path: Path) -> bool:
        """True where an earlier process finished a file in ``checkpoints``, and its state counts on it."""
        return path.name in self._files

    def finish(self, path: Path) -> None:
        """Let the states of later epochs count on a file in ``checkpoints``."""
        if self._processes.writes:
            self._files[path.name] = file_digest(path, "sha256")

    def train(self, stage: Stage, seed: int, student: PreparedModel | None = None) -> None:
        """Train a stage, or what is left of it.

        Args:
            stage: what to train.
            seed: of its batches and of dropout.
            student: whose quantizers are observed after every epoch; None observes none.

        Raises:
            UserError: a loss is not finite, the state is not one of this stage, or a file of the run cannot be written.
        """
        batches = self._data.stream(self._config.batch_size, seed, self._processes.shard)
        loop = PhaseLoop(stage, batches, self._processes, self._options, progress=self._progress, seed=seed)
        if self._start.loop is not None and self._start.loop.get("stage") == stage.name:
            self._continue(loop, self._start.loop)
        # made after the state is loaded: steps move from where the run was left
        monitor = QuantizerMonitor(student) if student is not None and self._processes.writes else None

        def after_epoch(record: EpochRecord) -> None:
            self._recorder.epoch(record, None if monitor is None else monitor.observe(self._observed))
            if self._processes.writes:
                done = (self._recorder.lines, self._recorder.digest, dict(self._files))
                self._folder.save_state(RunState(self._start.identity, loop.state_dict(), *done))

        loop.run(after_epoch)

    def _continue(self, loop: PhaseLoop, state: dict[str, Any]) -> None:
        try:
            loop.load_state_dict(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(self._folder.last, error) from error

    def close(self) -> None:
        """Close the records and draw the plot."""
        self._recorder.close()

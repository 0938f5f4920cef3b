"""A whole training run, from its settings to its files."""

from __future__ import annotations

from pathlib import Path

import torch

from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.distribution import launch
from qkd_deploy.training.monitoring.progress import NoProgress, RunProgress, progress_on_stderr
from qkd_deploy.training.one_run import Run
from qkd_deploy.training.run_folder import RunFolder
from qkd_deploy.training.train_result import TrainResult

__all__ = ["TrainResult", "train"]


def train(
    config: TrainConfig, out: Path | str, *, resume: bool = False, progress: RunProgress | None = None
) -> TrainResult:
    """Run ``config`` and leave its files in the folder ``out``.

    On CPU, equal configurations give bit-identical weights, and so does a run that was killed and resumed. Started by
    ``torchrun``, all its processes train together; the first one writes.

    Args:
        config: from ``make_config``.
        out: a folder without a run; with ``resume``, the folder of the run to continue from its last epoch.
        resume: continue; ``config`` must equal that of the run (``config_of_run``).
        progress: receives what happens; by default it is shown on stderr.

    Raises:
        UserError: anything the user can correct: unusable data, networks, weights or folder, or diverging training.
    """
    folder = RunFolder(Path(out))
    processes = launch(config.device)
    if processes.writes:
        folder.check(config, resume=resume)
        shown = progress if progress is not None else progress_on_stderr()
    else:
        shown = NoProgress()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        result = Run(config, folder, shown, processes).execute(resume)
        shown.summary(result.folder, result.teacher_accuracy)
        return result
    finally:
        torch.set_num_threads(threads)
        shown.close()

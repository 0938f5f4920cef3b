from __future__ import annotations

from pathlib import Path

import torch

from qkd_deploy.training.config import make_config
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.progress import NoProgress
from qkd_deploy.training.run import train


class Observed(NoProgress):
    def __init__(self) -> None:
        self.threads: set[int] = set()

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        self.threads.add(torch.get_num_threads())


def test_the_number_of_threads_holds_for_the_run_only(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    observed = Observed()
    config = make_config({"model": "plaincnn", "method": "qat", "epochs": 1, "pretrain_epochs": 1, "threads": 2})
    train(config, tmp_path / "run", progress=observed)
    assert observed.threads == {2}
    assert torch.get_num_threads() == before

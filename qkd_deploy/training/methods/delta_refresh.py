"""EWGS's delta during training, estimated anew every few epochs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.distill.phases import Phase, Role
from qkd_deploy.quantizers.ewgs_refresh import BATCHES, refresh_deltas
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.loop.answers import outputs_of, total
from qkd_deploy.training.run_data import RunData
from qkd_deploy.training.seeds import seed_for


class DeltaRefresh:
    """Estimates delta from the loss of the running phase, every ``delta_every`` epochs but the first.

    Every process of a run estimates on the same whole batches, and so arrives at the same values.

    Args:
        networks: of the stage, by role.
        data: of the run.
        config: of the run.
    """

    def __init__(self, networks: Mapping[Role, nn.Module], data: RunData, config: TrainConfig) -> None:
        self._networks = networks
        self._data = data
        self._config = config

    def __call__(self, phase: Phase, epoch: int) -> None:
        """Do what is due before an epoch of ``phase``, counted from 0."""
        if epoch == 0 or epoch % self._config.delta_every or "student" not in phase.losses:
            return
        student_loss = phase.losses["student"]

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            answers = {role: self._answer(role, images) for role in phase.networks}
            return total(student_loss(outputs_of(labels, answers, epoch / phase.epochs, self._data.dataset.task)))

        with torch.random.fork_rng(devices=[]):
            seed = seed_for(self._config, "student", "method") + epoch
        stream = self._data.stream(self._config.batch_size, seed, (0, 1))
        batches = list(islice(stream.epoch(), BATCHES))
        refresh_deltas(self._networks["student"], batches, loss, torch.Generator().manual_seed(seed))

    def _answer(self, role: Role, images: Tensor) -> Any:
        with torch.set_grad_enabled(role == "student"):
            return self._networks[role](images)

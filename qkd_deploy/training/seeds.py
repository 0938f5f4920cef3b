"""One seed for each purpose of a run."""

from __future__ import annotations

import torch

from qkd_deploy.distill.phases import Role
from qkd_deploy.training.config import TrainConfig

_PURPOSES = ("network", "pretrain", "method")
_SEEDS_PER_RUN = 8


def seed_for(config: TrainConfig, role: Role, purpose: str) -> int:
    """Seed torch for one purpose, so that pre-trained networks do not depend on the method that follows.

    Args:
        config: of the run.
        role: whose purpose.
        purpose: "network" (random weights), "pretrain" or "method".

    Returns:
        the seed, for generators.
    """
    seed = config.seed * _SEEDS_PER_RUN + _PURPOSES.index(purpose) * 2 + (role == "teacher")
    torch.manual_seed(seed)
    return seed

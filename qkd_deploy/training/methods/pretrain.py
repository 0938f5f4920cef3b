"""Full-precision training of a student or teacher for which no weights are given."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from qkd_deploy.distill.losses import labels_only
from qkd_deploy.distill.phases import Phase, Role
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.loop.optimizers import OptimizerSettings
from qkd_deploy.training.loop.schedule import Schedule
from qkd_deploy.training.loop.stage import Stage
from qkd_deploy.training.run_data import RunData

_WARMUP = 0.1
"""Share of the schedule with a rising learning rate: random weights do not bear the full one."""


def pretrain_epochs(role: Role, config: TrainConfig) -> int:
    """Look up how many epochs a network is pre-trained for."""
    return config.pretrain_epochs if role == "student" else config.teacher_pretrain_epochs


def pretrain_stage(
    role: Role, network: nn.Module, config: TrainConfig, data: RunData, evaluate: Callable[[Role], float | None]
) -> Stage:
    """Plan a stage in which ``network`` alone learns the labels: warm-up, then one cosine; momentum is Nesterov's."""
    name = f"pretrain-{role}"
    settings = OptimizerSettings(
        optimizer=config.pretrain_optimizer,
        learning_rate=config.pretrain_lr,
        momentum=config.momentum,
        nesterov=True,
        weight_decay=config.pretrain_weight_decay,
    )
    phase = Phase(name, pretrain_epochs(role, config), {role: labels_only(role, config.label_smoothing)})
    return Stage(
        name=name,
        networks={role: network},
        phases=[phase],
        optimizers={role: settings},
        evaluate=evaluate,
        schedule=Schedule(warmup=_WARMUP),
        evaluate_every=config.evaluate_every,
        measure=data.measure,
        task=data.dataset.task,
    )

"""The plan that a loop runs: the networks, phases and schedule of a stretch of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn
from torch.optim.swa_utils import AveragedModel

from qkd_deploy.distill.phases import Phase, Role
from qkd_deploy.tasks.classification import CLASSIFICATION
from qkd_deploy.tasks.task import Task
from qkd_deploy.training.loop.optimizers import OptimizerSettings
from qkd_deploy.training.loop.schedule import Schedule


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one schedule: a pre-training, or all phases of a method.

    Attributes:
        name: shown to the user and written to the metrics.
        networks: by role, on the device; they return what the task asks for, or that in a ``WithFeature``.
        phases: run one after the other under one schedule, but for those that start it anew.
        optimizers: settings for every network that learns in some phase.
        evaluate: the task's measure in percent of the network that a phase is about; None where nothing tells.
        schedule: of the learning rate.
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated.
        averaged: a moving average of the student, which follows its weights.
        measure: what ``evaluate`` gives.
        task: what targets and answers are, and how they are compared.
        before_epoch: called with the phase and the number of the epoch within it, from 0.
    """

    name: str
    networks: Mapping[Role, nn.Module]
    phases: list[Phase]
    optimizers: Mapping[Role, OptimizerSettings]
    evaluate: Callable[[Role], float | None]
    schedule: Schedule = field(default_factory=Schedule)
    evaluate_every: int = 1
    averaged: AveragedModel | None = None
    before_epoch: Callable[[Phase, int], None] | None = None
    measure: str = CLASSIFICATION.measure
    task: Task = CLASSIFICATION


@dataclass(frozen=True)
class LoopOptions:
    """How batches are computed.

    Attributes:
        bf16: networks that learn run under bfloat16 autocast.
        compiled: networks run through ``torch.compile``.
        channels_last: images and networks are in that memory format.
        accumulate: parts that a batch is processed in, one after the other.
    """

    bf16: bool = False
    compiled: bool = False
    channels_last: bool = False
    accumulate: int = 1


@dataclass(frozen=True)
class Position:
    """An epoch's place: its phase, its number in it, and where its schedule began and ends."""

    phase: Phase
    epoch: int
    schedule_epoch: int
    schedule_epochs: int


def positions(phases: list[Phase]) -> list[Position]:
    """Find the place of every epoch of a stage."""
    stretches: list[list[Phase]] = []
    for phase in phases:
        if phase.own_schedule or not stretches:
            stretches.append([])
        stretches[-1].append(phase)
    found = []
    for stretch in stretches:
        total, before = sum(phase.epochs for phase in stretch), 0
        for phase in stretch:
            found += [Position(phase, epoch, before + epoch, total) for epoch in range(phase.epochs)]
            before += phase.epochs
    return found

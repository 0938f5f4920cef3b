"""The one loop that every method and the pre-training run on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qkd_deploy.distill.phases import Phase
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.batch_step import BatchStep
from qkd_deploy.training.loop.batches import BatchStream
from qkd_deploy.training.loop.loss_sums import LossSums
from qkd_deploy.training.loop.optimizers import NetworkOptimizer, StepMovement
from qkd_deploy.training.loop.stage import LoopOptions, Position, Stage, positions
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.progress import RunProgress
from qkd_deploy.training.monitoring.wording import loss_text

_REPORT_EVERY = 20
"""Batches between two reads of the losses; each read waits for the device."""


class PhaseLoop:
    """Runs the phases of one stage, epoch by epoch.

    Args:
        stage: what to run.
        batches: training batches on the device.
        processes: that run this loop together.
        options: how batches are computed.
        progress: receives what happens.
        seed: of torch's global generator, from which dropout draws; it is seeded anew for every epoch.

    Two loops built alike and given the same state continue alike: bit-identically on CPU.
    """

    def __init__(
        self,
        stage: Stage,
        batches: BatchStream,
        processes: Processes,
        options: LoopOptions,
        *,
        progress: RunProgress,
        seed: int = 0,
    ) -> None:
        self.stage = stage
        self.accuracy: float | None = None
        self._batches = batches
        self._processes = processes
        self._progress = progress
        self._seed = seed
        self._bf16 = options.bf16
        self._positions = positions(stage.phases)
        self._optimizers = {role: NetworkOptimizer(stage.networks[role], s) for role, s in stage.optimizers.items()}
        self._movement = StepMovement(*stage.networks.values())
        self._step = BatchStep(stage, self._optimizers, processes, options)
        self._epoch = 0
        self._seconds: list[float] = []

    def run(self, after_epoch: Callable[[EpochRecord], None]) -> None:
        """Train the remaining epochs; ``after_epoch`` is called at every epoch boundary.

        Raises:
            UserError: a loss is not finite, or a scale is lost.
        """
        while self._epoch < len(self._positions):
            position = self._positions[self._epoch]
            started = time.monotonic()
            self._begin(position)
            losses = self._train_epoch(position)
            self._unite()
            trained = time.monotonic()
            self._epoch += 1
            self.accuracy = self._evaluated(position.phase)
            self._seconds.append(time.monotonic() - started)
            record = self._record(position.phase, losses, trained - started)
            self._progress.epoch(record, self._seconds_left())
            after_epoch(record)

    def _begin(self, position: Position) -> None:
        for role, network in self.stage.networks.items():
            network.train(role in position.phase.losses)
        if self.stage.before_epoch is not None:
            self.stage.before_epoch(position.phase, position.epoch)
        self._progress.epoch_begins(self.stage.name, self._epoch + 1, len(self._positions), self._batches.images)

    def _unite(self) -> None:
        """Let all processes go on with the same running statistics."""
        for network in self.stage.networks.values():
            self._processes.unite(network)
        if self.stage.averaged is not None:
            self._processes.unite(self.stage.averaged)

    def _evaluated(self, phase: Phase) -> float | None:
        """Accuracy of the network that a phase is about; None in an epoch that is not evaluated."""
        if not self._evaluation_is_due():
            return None
        return self.stage.evaluate("student" if "student" in phase.losses else "teacher")

    def _evaluation_is_due(self) -> bool:
        return self._epoch % self.stage.evaluate_every == 0 or self._epoch == len(self._positions)

    def _seconds_left(self) -> float:
        recent = self._seconds[-5:]
        return sum(recent) / len(recent) * (len(self._positions) - self._epoch)

    def _record(self, phase: Phase, losses: dict[str, dict[str, float]], training_seconds: float) -> EpochRecord:
        return EpochRecord(
            stage=self.stage.name,
            phase=phase.name,
            epoch=self._epoch,
            epochs=len(self._positions),
            losses=losses,
            learning_rates={role: self._optimizers[role].learning_rate for role in phase.losses},
            step_movement=self._movement.since_last(),
            accuracy=self.accuracy,
            measure=self.stage.measure,
            seconds=round(self._seconds[-1], 3),
            images_per_second=round(self._batches.images / training_seconds, 1),
        )

    def _train_epoch(self, position: Position) -> dict[str, dict[str, float]]:
        phase = position.phase
        torch.manual_seed((self._seed * 100_003 + self._epoch) * self._processes.world + self._processes.rank)
        title = f"{self.stage.name} {phase.name} {self._epoch + 1}/{len(self._positions)}"
        sums = LossSums(self._where(phase), self._instead(), self._processes)
        for index, (inputs, labels) in enumerate(self._batches.epoch()):
            done = index / len(self._batches)
            self._set_learning_rates(position, done)
            sums.add(self._step.train(phase, inputs, labels, (position.epoch + done) / phase.epochs))
            if (index + 1) % _REPORT_EVERY == 0:
                self._progress.batches(title, index + 1, len(self._batches), loss_text(sums.means()))
        means = sums.means()
        for network in self.stage.networks.values():
            _require_scales(network)
        return means

    def _where(self, phase: Phase) -> str:
        rates = ", ".join(f"{role} {s.learning_rate:g}" for role, s in self.stage.optimizers.items())
        return f"in {self.stage.name}, phase {phase.name}, epoch {self._epoch + 1} (learning rate: {rates})"

    def _instead(self) -> str:
        """Say what may keep the losses of this stage finite, as options."""
        rate = "--pretrain-lr" if self.stage.name.startswith("pretrain-") else "--lr"
        return f"a lower {rate}{' or --precision fp32' if self._bf16 else ''}"

    def _set_learning_rates(self, position: Position, done: float) -> None:
        factor = self.stage.schedule.factor((position.schedule_epoch + done) / position.schedule_epochs)
        for role in position.phase.losses:
            self._optimizers[role].set_factor(factor * position.phase.learning_rate_factor(role))

    def state_dict(self) -> dict[str, Any]:
        """Give everything that continues this stage from the epoch boundary, as tensors and plain data."""
        averaged = self.stage.averaged
        return {
            "stage": self.stage.name,
            "epoch": self._epoch,
            "accuracy": self.accuracy,
            "networks": {role: network.state_dict() for role, network in self.stage.networks.items()},
            "averaged": None if averaged is None else averaged.state_dict(),
            "optimizers": {role: optimizer.state_dict() for role, optimizer in self._optimizers.items()},
            "batches": self._batches.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError: it is the state of another loop.
        """
        if type(state["epoch"]) is not int or not 0 <= state["epoch"] <= len(self._positions):
            raise ValueError(f"epoch {state['epoch']!r} of {len(self._positions)}")
        for role, network in self.stage.networks.items():
            network.load_state_dict(state["networks"][role])
        if self.stage.averaged is not None:
            self.stage.averaged.load_state_dict(state["averaged"])
        for role, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][role])
        self._epoch = state["epoch"]
        self.accuracy = state["accuracy"]
        self._movement = StepMovement(*self.stage.networks.values())
        self._batches.generator.set_state(state["batches"])


def _require_scales(network: nn.Module) -> None:
    """Refuse to go on with scales that are lost; compiled networks do not look themselves."""
    for module in network.modules():
        if isinstance(module, PreparedModel):
            module.require_scales()

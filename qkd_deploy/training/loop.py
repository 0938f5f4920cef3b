"""The one loop that every method and the pre-training run on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.distill.phases import LossTerms, Outputs, Phase, Role
from qkd_deploy.errors import UserError
from qkd_deploy.training.batches import BatchStream
from qkd_deploy.training.metrics import EpochRecord
from qkd_deploy.training.optimizers import NetworkOptimizer, OptimizerSettings, StepMovement, cosine_factor
from qkd_deploy.training.progress import RunProgress, loss_text

_REPORT_EVERY = 20
"""Batches between two reads of the losses; each read waits for the device."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one schedule: a pre-training, or all phases of a method.

    Attributes:
        name: shown to the user and written to the metrics.
        networks: by role, on the device.
        phases: run one after the other under one cosine schedule.
        optimizers: settings for every network that learns in some phase.
        evaluate: accuracy in percent of what the stage is about.
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated.
        warmup: share of the schedule in which the learning rate rises.
    """

    name: str
    networks: Mapping[Role, nn.Module]
    phases: list[Phase]
    optimizers: Mapping[Role, OptimizerSettings]
    evaluate: Callable[[], float]
    evaluate_every: int = 1
    warmup: float = 0.0


class PhaseLoop:
    """Runs the phases of one stage, epoch by epoch.

    Args:
        stage: what to run.
        batches: training batches on ``device``.
        device: of the networks.
        bf16: networks that learn run under bfloat16 autocast.
        progress: receives what happens.
        compiled: networks run through ``torch.compile``.

    Two loops built alike and given the same state continue alike: bit-identically on CPU.
    """

    def __init__(
        self,
        stage: Stage,
        batches: BatchStream,
        device: torch.device,
        *,
        bf16: bool,
        progress: RunProgress,
        compiled: bool = False,
    ) -> None:
        self.stage = stage
        self.accuracy: float | None = None
        self._batches = batches
        self._device = device
        self._bf16 = bf16
        self._progress = progress
        self._epoch_phases = [phase for phase in stage.phases for _ in range(phase.epochs)]
        self._optimizers = {role: NetworkOptimizer(stage.networks[role], s) for role, s in stage.optimizers.items()}
        self._movement = StepMovement(*stage.networks.values())
        # All batches of a stage have one size, so that every network compiles once per mode it runs in.
        self._forward: dict[Role, Callable[[Tensor], Tensor]] = {
            role: torch.compile(network, dynamic=False) if compiled else network
            for role, network in stage.networks.items()
        }
        self._epoch = 0
        self._seconds: list[float] = []

    def run(self, after_epoch: Callable[[EpochRecord], None]) -> None:
        """Train the remaining epochs; ``after_epoch`` is called at every epoch boundary.

        Raises:
            UserError: a loss is not finite.
        """
        while self._epoch < len(self._epoch_phases):
            started = time.monotonic()
            phase = self._epoch_phases[self._epoch]
            losses = self._train_epoch(phase)
            self._epoch += 1
            self.accuracy = self.stage.evaluate() if self._evaluation_is_due() else None
            self._seconds.append(time.monotonic() - started)
            record = self._record(phase, losses)
            self._progress.epoch(record, self._seconds_left())
            after_epoch(record)

    def _evaluation_is_due(self) -> bool:
        return self._epoch % self.stage.evaluate_every == 0 or self._epoch == len(self._epoch_phases)

    def _seconds_left(self) -> float:
        recent = self._seconds[-5:]
        return sum(recent) / len(recent) * (len(self._epoch_phases) - self._epoch)

    def _record(self, phase: Phase, losses: dict[str, dict[str, float]]) -> EpochRecord:
        return EpochRecord(
            stage=self.stage.name,
            phase=phase.name,
            epoch=self._epoch,
            epochs=len(self._epoch_phases),
            losses=losses,
            learning_rates={role: self._optimizers[role].learning_rate for role in phase.losses},
            step_movement=self._movement.since_last(),
            accuracy=self.accuracy,
            seconds=round(self._seconds[-1], 3),
        )

    def _train_epoch(self, phase: Phase) -> dict[str, dict[str, float]]:
        for role, network in self.stage.networks.items():
            network.train(role in phase.losses)
        title = f"{self.stage.name} {phase.name} {self._epoch + 1}/{len(self._epoch_phases)}"
        sums = _LossSums(self._where(phase))
        for index, (inputs, labels) in enumerate(self._batches.epoch()):
            self._set_learning_rates(phase, index)
            sums.add(self._train_batch(phase, inputs, labels))
            if (index + 1) % _REPORT_EVERY == 0:
                self._progress.batches(title, index + 1, len(self._batches), loss_text(sums.means()))
        return sums.means()

    def _where(self, phase: Phase) -> str:
        rates = ", ".join(f"{role} {s.learning_rate:g}" for role, s in self.stage.optimizers.items())
        return f"in {self.stage.name}, phase {phase.name}, epoch {self._epoch + 1} (learning rate: {rates})"

    def _set_learning_rates(self, phase: Phase, batch: int) -> None:
        progress = (self._epoch + batch / len(self._batches)) / len(self._epoch_phases)
        factor = cosine_factor(progress, self.stage.warmup)
        for role in phase.losses:
            self._optimizers[role].set_factor(factor * phase.learning_rate_factor(role))

    def _train_batch(self, phase: Phase, inputs: Tensor, labels: Tensor) -> dict[Role, LossTerms]:
        outputs = Outputs(labels, {role: self._logits(role, phase, inputs) for role in phase.networks})
        losses = {role: loss(outputs) for role, loss in phase.losses.items()}
        for role in losses:
            self._optimizers[role].zero_grad()
        # The losses detach what they imitate, so one backward pass serves both networks without mixing them.
        _total(terms for terms in losses.values()).backward()  # type: ignore[no-untyped-call]
        for role in losses:
            self._optimizers[role].step()
        return losses

    def _logits(self, role: Role, phase: Phase, inputs: Tensor) -> Tensor:
        learns = role in phase.losses
        # A frozen network on a GPU always runs in bfloat16: its softmax is only imitated.
        low_precision = self._bf16 if learns else self._bf16 or self._device.type == "cuda"
        with torch.set_grad_enabled(learns), torch.autocast(self._device.type, torch.bfloat16, low_precision):
            return self._forward[role](inputs).float()

    def state_dict(self) -> dict[str, Any]:
        """Everything that continues this stage from the epoch boundary, as tensors and plain data."""
        return {
            "stage": self.stage.name,
            "epoch": self._epoch,
            "accuracy": self.accuracy,
            "networks": {role: network.state_dict() for role, network in self.stage.networks.items()},
            "optimizers": {role: optimizer.state_dict() for role, optimizer in self._optimizers.items()},
            "batches": self._batches.generator.get_state(),
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state() if self._device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for role, network in self.stage.networks.items():
            network.load_state_dict(state["networks"][role])
        for role, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][role])
        self._epoch = state["epoch"]
        self.accuracy = state["accuracy"]
        self._movement = StepMovement(*self.stage.networks.values())
        self._batches.generator.set_state(state["batches"])
        torch.set_rng_state(state["random"])
        if state["device_random"] is not None:
            torch.cuda.set_rng_state(state["device_random"])


class _LossSums:
    """Sums the loss terms on the device; reading them checks that they are finite."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._count = 0

    def add(self, losses: Mapping[Role, LossTerms]) -> None:
        self._count += 1
        for role, terms in losses.items():
            sums = self._sums.setdefault(role, {})
            for name, value in terms.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()

    def means(self) -> dict[str, dict[str, float]]:
        means = {role: {n: float(v) / self._count for n, v in terms.items()} for role, terms in self._sums.items()}
        values = [value for terms in means.values() for value in terms.values()]
        if not all(torch.isfinite(torch.tensor(values))):
            raise UserError(
                f"the loss is no longer finite {self._where}; lower the learning rate (--lr), use --precision fp32, "
                "or check the images and starting weights; checkpoints/last.pt holds the last good epoch"
            )
        return means


def _total(losses: Iterable[LossTerms]) -> Tensor:
    return torch.stack([value for terms in losses for value in terms.values()]).sum()

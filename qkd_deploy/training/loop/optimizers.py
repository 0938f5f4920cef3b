"""What moves the parameters of one network: SGD or Adam for weights, RelativeAdam for quantization steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from qkd_deploy.training.loop.steps_optimizer import RelativeAdam


@runtime_checkable
class HasSteps(Protocol):
    """A prepared network: its quantization steps are learned apart from its other parameters."""

    def weight_steps(self) -> list[nn.Parameter]:
        """Scalar steps of the weights."""

    def activation_steps(self) -> list[nn.Parameter]:
        """Scalar steps of the activations."""

    def network_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rates of one network.

    Attributes:
        learning_rate: of weights, at the top of the schedule.
        optimizer: of weights: "sgd", "adamw" (decoupled decay) or "adam" (L2 decay).
        momentum: of SGD.
        nesterov: SGD looks ahead.
        weight_decay: on weights of two or more dimensions; never on biases, normalisation and steps.
        weight_step_ratio: relative movement of weight steps per iteration, over ``learning_rate``.
        activation_step_ratio: the same for activation steps.
        clip_norm: largest norm of the weights' gradient; 0 does not clip.
    """

    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    weight_step_ratio: float = 0.01
    activation_step_ratio: float = 1.0
    clip_norm: float = 0.0

    def build(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer of the weights."""
        if self.optimizer == "sgd":
            nesterov = self.nesterov and self.momentum > 0
            return SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov)
        return (AdamW if self.optimizer == "adamw" else Adam)(groups, lr=self.learning_rate)


class NetworkOptimizer:
    """The optimizers of one network, with one common factor on all learning rates."""

    def __init__(self, network: nn.Module, settings: OptimizerSettings) -> None:
        self._settings = settings
        self._optimizers: list[Optimizer] = []
        parameters = network.network_parameters() if isinstance(network, HasSteps) else list(network.parameters())
        self._weights = parameters
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        rate = settings.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": decayed, "base_lr": rate, "weight_decay": settings.weight_decay},
            {"params": plain, "base_lr": rate, "weight_decay": 0.0},
        ]
        self._add(groups, settings.build)
        if isinstance(network, HasSteps):
            steps: list[dict[str, Any]] = [
                {"params": network.weight_steps(), "base_lr": rate * settings.weight_step_ratio},
                {"params": network.activation_steps(), "base_lr": rate * settings.activation_step_ratio},
            ]
            self._add(steps, RelativeAdam)

    def _add(self, groups: list[dict[str, Any]], build: Any) -> None:
        filled = [group for group in groups if group["params"]]
        if filled:
            self._optimizers.append(build(filled))

    def set_factor(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times its value at the top of the schedule."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor

    @property
    def learning_rate(self) -> float:
        """The present learning rate of the weights."""
        return float(self._optimizers[0].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move all parameters once."""
        if self._settings.clip_norm:
            # steps move relatively, whatever the size of their gradient
            nn.utils.clip_grad_norm_(self._weights, self._settings.clip_norm)
        for optimizer in self._optimizers:
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything that a continued run needs, as tensors and plain data."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what ``state_dict`` returned for the same network and settings."""
        for optimizer, saved in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(saved)


class StepMovement:
    """How far the quantization steps moved: a sign that they learn at all."""

    def __init__(self, *networks: nn.Module) -> None:
        prepared = [network for network in networks if isinstance(network, HasSteps)]
        kinds = {
            "weight_steps": [step for network in prepared for step in network.weight_steps()],
            "activation_steps": [step for network in prepared for step in network.activation_steps()],
        }
        self._kinds = {name: steps for name, steps in kinds.items() if steps}
        self._before = {name: self._logarithms(steps) for name, steps in self._kinds.items()}

    @staticmethod
    @torch.no_grad()
    def _logarithms(steps: list[nn.Parameter]) -> torch.Tensor:
        return torch.stack(list(steps)).log().flatten()

    def since_last(self) -> dict[str, float]:
        """Mean of ``|log(s / s_before)|`` per kind of step since construction or the previous call."""
        movement = {}
        for name, steps in self._kinds.items():
            now = self._logarithms(steps)
            movement[name] = round(float((now - self._before[name]).abs().mean()), 6)
            self._before[name] = now
        return movement

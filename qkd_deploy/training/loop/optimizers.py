"""The optimizers of one network: SGD or Adam for weights, RelativeAdam for quantization steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from qkd_deploy.training.loop.parameter_groups import HasSteps, parameter_groups, weights_of
from qkd_deploy.training.loop.steps_optimizer import RelativeAdam


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
        """Make the optimizer of the weights."""
        if self.optimizer == "sgd":
            nesterov = self.nesterov and self.momentum > 0  # SGD refuses to look ahead without momentum
            return SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov)
        adam = AdamW if self.optimizer == "adamw" else Adam
        return adam(groups, lr=self.learning_rate)


class NetworkOptimizer:
    """The optimizers of one network, with one common factor on all learning rates."""

    def __init__(self, network: nn.Module, settings: OptimizerSettings) -> None:
        self._settings = settings
        groups = parameter_groups(
            network,
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            weight_step_ratio=settings.weight_step_ratio,
            activation_step_ratio=settings.activation_step_ratio,
        )
        for group in (*groups.weights, *groups.steps):
            group["base_lr"] = group["lr"]
        self._weights = weights_of(network)
        self._optimizers = [settings.build(groups.weights)]
        if groups.steps:
            self._optimizers.append(RelativeAdam(groups.steps))

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
        """Give everything that a continued run needs, as tensors and plain data."""
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
        return torch.cat([step.flatten() for step in steps])  # a copy: what is learned is a logarithm

    def since_last(self) -> dict[str, float]:
        """Compute the mean of ``|log(s / s_before)|`` per kind of step since construction or the previous call."""
        movement = {}
        for name, steps in self._kinds.items():
            now = self._logarithms(steps)
            movement[name] = round(float((now - self._before[name]).abs().mean()), 6)
            self._before[name] = now
        return movement

"""The parts of a distillation method: phases, each with the networks that learn and their losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat

from qkd_deploy.settings import Settings
from qkd_deploy.tasks.classification import CLASSIFICATION
from qkd_deploy.tasks.task import Task, Terms

if TYPE_CHECKING:  # the command line reads the methods' names and options without torch
    from torch import Tensor

Role = Literal["student", "teacher"]
LossTerms = Terms


@dataclass(frozen=True)
class Outputs:
    """The outputs of a phase's networks on one batch.

    Attributes:
        labels: the task's targets: int64 [N] class numbers, or float32 [N, classes] probabilities of mixed images.
        logits: what every network of the phase returns, in float32: [N, classes] of classifiers.
        features: float32 [N, C], the input of the last layer; only in phases that ask for it.
        progress: share of the phase that is over, in [0, 1).
        task: compares them.
    """

    labels: Tensor
    logits: Mapping[Role, Any]
    features: Mapping[Role, Tensor] = field(default_factory=dict)
    progress: float = 0.0
    task: Task = CLASSIFICATION


Loss = Callable[[Outputs], LossTerms]
"""Maps one batch's outputs to named scalar terms; their sum is minimised and each is reported."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training with the same losses throughout.

    Attributes:
        name: shown to the user and written to the metrics.
        epochs: length; at least 1.
        losses: the networks that learn, with the loss each minimises; gradients must not cross between networks.
        frozen: networks that see the batches but do not learn: evaluation mode, no gradients.
        learning_rate_factors: multiplies the run's learning rate for a network (1 when absent).
        features: the losses need ``Outputs.features``.
        needs_labels: the losses read ``Outputs.labels``; otherwise unlabelled images will do.
        own_schedule: the learning-rate schedule starts anew with this phase, instead of going on.
    """

    name: str
    epochs: int
    losses: Mapping[Role, Loss]
    frozen: tuple[Role, ...] = ()
    learning_rate_factors: Mapping[Role, float] = field(default_factory=dict)
    features: bool = False
    needs_labels: bool = True
    own_schedule: bool = False

    @property
    def networks(self) -> tuple[Role, ...]:
        """All networks that see the batches."""
        return (*self.losses, *self.frozen)

    def learning_rate_factor(self, role: Role) -> float:
        """Look up the factor on the run's learning rate for ``role``; 0 when it does not learn in this phase."""
        return self.learning_rate_factors.get(role, 1.0) if role in self.losses else 0.0


Temperature = Annotated[
    NonNegativeFloat, "Temperature of the distillation loss; for a run, 0 becomes the method's own."
]
SoftLoss = Annotated[
    float,
    Field(ge=-1),
    "Weight of the distillation term of `gslr` (at its start) and `sqakd`; for a run, -1 becomes the method's own.",
]


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Settings):
    """The options that several methods have; those of one method alone are declared beside it."""

    group = "method"

    temperature: Temperature = 2.0
    soft_loss: SoftLoss = 1.0
    label_smoothing: Annotated[
        float, Field(ge=0, le=0.9), "Share of a label's probability that is spread over all classes."
    ] = 0.0


def split_epochs(total: int, ratio: Sequence[int]) -> tuple[int, ...]:
    """Split ``total`` epochs in the given ratio (largest remainder); the parts add up to ``total``."""
    whole = sum(ratio)
    parts = [total * share // whole for share in ratio]
    # of equal remainders the earlier part gets the epoch: sorted() is stable
    by_remainder = sorted(range(len(ratio)), key=lambda i: total * ratio[i] % whole, reverse=True)
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return tuple(parts)

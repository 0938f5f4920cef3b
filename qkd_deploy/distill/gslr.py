"""Distillation with a gradually decreasing soft loss (GSLR; Shin, Boo & Sung 2019, arXiv:1909.01688).

    L = (1 - c) * CE(y, z_S) + c * T^2 * KL(p_T || p_S)

The coefficient ``c`` falls from ``soft_loss`` to 0 during training, so that the student moves from soft to hard targets
and the choice of temperature and teacher matters less. The paper's curve, start and temperature are not known; the
curves here are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from qkd_deploy.distill.phases import Loss, LossTerms, Outputs, Phase, SharedOptions
from qkd_deploy.settings import OneOf

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "step": lambda progress: (1.0, 0.5, 0.0)[min(int(3 * progress), 2)],
}
"""Curves by name: the share of the coefficient that is left at ``progress`` in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class GslrOptions(SharedOptions):
    """The options of GSLR."""

    soft_loss_decay: Annotated[str, OneOf(*DECAYS), "How `gslr`'s weight of the distillation term decreases."] = (
        "linear"
    )


def hardening(temperature: float, start: float, decay: str, smoothing: float = 0.0) -> Loss:
    """Make the loss above, with ``c = start * decay(progress)``."""
    share = DECAYS[decay]

    def loss(outputs: Outputs) -> LossTerms:
        coefficient = start * share(outputs.progress)
        own, task = outputs.logits["student"], outputs.task
        hard = task.hard_loss(own, outputs.labels, smoothing)
        soft = task.soft_loss(own, outputs.logits["teacher"], temperature)
        return {
            **{name: (1 - coefficient) * value for name, value in hard.items()},
            **{name: coefficient * value for name, value in soft.items()},
        }

    return loss


def gslr_phases(epochs: Sequence[int], options: GslrOptions) -> list[Phase]:
    """List the one phase, with the teacher frozen."""
    loss = hardening(options.temperature, options.soft_loss, options.soft_loss_decay, options.label_smoothing)
    return [Phase("distillation", epochs[0], {"student": loss}, frozen=("teacher",))]

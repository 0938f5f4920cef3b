"""Quantized feature distillation (Zhu, He & Wu 2023, arXiv:2307.10638).

First the teacher, a full-precision network whose penultimate feature alone is quantized, learns the labels. Then the
student minimises ``CE(y, z_S) + lambda * D(Q(f_T), f_S)`` with the teacher frozen; its own feature is compared before
quantization. The distance D is the mean squared error and features are those behind the last pooling (both our
choice, the paper's are not known).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from qkd_deploy.distill.losses import labels_only
from qkd_deploy.distill.phases import Loss, LossTerms, Outputs, Phase, SharedOptions


@dataclass(frozen=True, kw_only=True)
class QfdOptions(SharedOptions):
    """The options of QFD."""

    feature_weight: Annotated[NonNegativeFloat, "Weight of `qfd`'s feature term."] = 0.5
    teacher_feature_bits: Annotated[int, Field(ge=1, le=8), "Bits of the teacher's feature in `qfd`."] = 4
    teacher_feature_epochs: Annotated[
        NonNegativeInt,
        "Epochs in which `qfd`'s teacher learns with that feature; the student's come on top.",
    ] = 10
    feature_point: Annotated[str, "Module whose output is `qfd`'s feature; the input of the last layer by default."] = (
        ""
    )
    teacher_feature_point: Annotated[str, "The same for the teacher, where it differs from `--feature-point`."] = ""


def feature_imitation(weight: float, smoothing: float = 0.0) -> Loss:
    """Make the loss ``CE(y, z_S) + weight * MSE(Q(f_T), f_S)``."""

    def loss(outputs: Outputs) -> LossTerms:
        from torch.nn import functional

        distance = functional.mse_loss(outputs.features["student"], outputs.features["teacher"].detach())
        hard = outputs.task.hard_loss(outputs.logits["student"], outputs.labels, smoothing)
        return {**hard, "feature": weight * distance}

    return loss


def qfd_phases(epochs: Sequence[int], options: QfdOptions) -> list[Phase]:
    """List the phases: the teacher with its quantized feature, then the student with the teacher frozen."""
    smoothing = options.label_smoothing
    teacher = Phase("teacher-feature", options.teacher_feature_epochs, {"teacher": labels_only("teacher", smoothing)})
    student = Phase(
        "distillation",
        epochs[0],
        {"student": feature_imitation(options.feature_weight, smoothing)},
        frozen=("teacher",),
        features=True,
        own_schedule=True,
    )
    return [phase for phase in (teacher, student) if phase.epochs > 0]

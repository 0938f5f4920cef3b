"""Quantized feature distillation (Zhu, He & Wu 2023, arXiv:2307.10638).

First the teacher, a full-precision network whose penultimate feature alone is quantized, learns the labels. Then the
student minimises ``CE(y, z_S) + lambda * D(Q(f_T), f_S)`` with the teacher frozen; its own feature is compared before
quantization. The distance D is the mean squared error and features are those behind the last pooling (both our
choice, the paper's are not known).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import functional

from qkd_deploy.distill.losses import cross_entropy, labels_only
from qkd_deploy.distill.phases import Loss, LossTerms, MethodOptions, Outputs, Phase


def feature_imitation(weight: float, smoothing: float = 0.0) -> Loss:
    """Make the loss ``CE(y, z_S) + weight * MSE(Q(f_T), f_S)``."""

    def loss(outputs: Outputs) -> LossTerms:
        distance = functional.mse_loss(outputs.features["student"], outputs.features["teacher"].detach())
        ce = cross_entropy(outputs.logits["student"], outputs.labels, smoothing)
        return {"ce": ce, "feature": weight * distance}

    return loss


def qfd_phases(epochs: Sequence[int], options: MethodOptions) -> list[Phase]:
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

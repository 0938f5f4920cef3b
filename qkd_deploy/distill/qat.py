"""Quantization-aware training on labels only: the baseline without a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from qkd_deploy.distill.losses import cross_entropy
from qkd_deploy.distill.phases import Loss, LossTerms, MethodOptions, Outputs, Phase, Role


def labels_only(learner: Role) -> Loss:
    """``CE(y, z_learner)``."""

    def loss(outputs: Outputs) -> LossTerms:
        return {"ce": cross_entropy(outputs.logits[learner], outputs.labels)}

    return loss


def qat_phases(epochs: Sequence[int], options: MethodOptions) -> list[Phase]:
    """One phase, of all the student's epochs."""
    return [Phase("labels", sum(epochs), {"student": labels_only("student")})]

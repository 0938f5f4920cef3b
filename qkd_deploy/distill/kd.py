"""Distillation from a fixed teacher: the baseline without co-studying."""

from __future__ import annotations

from collections.abc import Sequence

from qkd_deploy.distill.losses import cross_entropy, distillation_kl
from qkd_deploy.distill.phases import Loss, LossTerms, MethodOptions, Outputs, Phase, Role


def imitation(learner: Role, target: Role, temperature: float) -> Loss:
    """``CE(y, z_learner) + T^2 KL(p_target || p_learner)``, weighted 1 : 1; the gradient reaches the learner only."""

    def loss(outputs: Outputs) -> LossTerms:
        logits = outputs.logits[learner]
        kl = distillation_kl(logits, outputs.logits[target], temperature)
        return {"ce": cross_entropy(logits, outputs.labels), "kl": kl}

    return loss


def kd_phases(epochs: Sequence[int], options: MethodOptions) -> list[Phase]:
    """One phase, of all the student's epochs, with the teacher frozen."""
    student = imitation("student", "teacher", options.temperature)
    return [Phase("distillation", sum(epochs), {"student": student}, frozen=("teacher",))]

"""The losses of the methods, and their sums."""

from __future__ import annotations

from qkd_deploy.distill.phases import Loss, LossTerms, Outputs, Role
from qkd_deploy.tasks.classification import cross_entropy, distillation_kl

__all__ = ["cross_entropy", "distillation_kl", "imitation", "labels_only"]


def labels_only(learner: Role, smoothing: float = 0.0) -> Loss:
    """Make the task's hard loss; of classifiers ``CE(y, z_learner)``."""

    def loss(outputs: Outputs) -> LossTerms:
        return outputs.task.hard_loss(outputs.logits[learner], outputs.labels, smoothing)

    return loss


def imitation(learner: Role, target: Role, temperature: float, smoothing: float = 0.0) -> Loss:
    """Make the task's hard and soft losses, whose gradient reaches the learner only.

    Of classifiers ``CE(y, z_learner) + T^2 KL(p_target || p_learner)``.
    """

    def loss(outputs: Outputs) -> LossTerms:
        own, task = outputs.logits[learner], outputs.task
        hard = task.hard_loss(own, outputs.labels, smoothing)
        return {**hard, **task.soft_loss(own, outputs.logits[target], temperature)}

    return loss

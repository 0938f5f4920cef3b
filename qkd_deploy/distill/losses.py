"""The losses of the methods, and their sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkd_deploy.distill.phases import Loss, LossTerms, Outputs, Role

if TYPE_CHECKING:  # the command line reads the methods' names and options without torch
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the mean cross entropy of ``logits`` [N, classes].

    Args:
        logits: [N, classes].
        labels: int64 class numbers [N], or probabilities [N, classes].
        smoothing: share of the probability that is spread evenly over all classes.
    """
    from torch.nn import functional

    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def distillation_kl(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """Compute ``T^2 * KL(p_target || p)`` with ``p = softmax(logits / T)``, averaged over the batch.

    The factor ``T^2`` keeps the gradient with respect to ``logits`` of order one as ``T`` grows (Hinton et al. 2015).
    The target is detached: the loss teaches only the network that produced ``logits`` (QKD, arXiv:1911.12491).

    Args:
        logits: [N, classes], of the network that learns.
        target_logits: [N, classes], of the network that is imitated.
        temperature: softens both distributions; QKD uses 2.
    """
    from torch.nn import functional

    log_probabilities = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(target_logits.detach() / temperature, dim=1)
    divergence = functional.kl_div(log_probabilities, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def labels_only(learner: Role, smoothing: float = 0.0) -> Loss:
    """Make the loss ``CE(y, z_learner)``."""

    def loss(outputs: Outputs) -> LossTerms:
        return {"ce": cross_entropy(outputs.logits[learner], outputs.labels, smoothing)}

    return loss


def imitation(learner: Role, target: Role, temperature: float, smoothing: float = 0.0) -> Loss:
    """Make the loss ``CE(y, z_learner) + T^2 KL(p_target || p_learner)``; its gradient reaches the learner only."""

    def loss(outputs: Outputs) -> LossTerms:
        logits = outputs.logits[learner]
        kl = distillation_kl(logits, outputs.logits[target], temperature)
        return {"ce": cross_entropy(logits, outputs.labels, smoothing), "kl": kl}

    return loss

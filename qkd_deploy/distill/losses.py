"""The two losses that QKD and its baselines are made of."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of ``logits`` [N, classes] against class indices ``labels`` [N]."""
    return functional.cross_entropy(logits, labels)


def distillation_kl(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(p_target || p)`` with ``p = softmax(logits / T)``, averaged over the batch.

    The factor ``T^2`` keeps the gradient with respect to ``logits`` of order one as ``T`` grows (Hinton et al. 2015).
    The target is detached: the loss teaches only the network that produced ``logits`` (QKD, arXiv:1911.12491).

    Args:
        logits: [N, classes], of the network that learns.
        target_logits: [N, classes], of the network that is imitated.
        temperature: softens both distributions; QKD uses 2.
    """
    log_probabilities = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(target_logits.detach() / temperature, dim=1)
    divergence = functional.kl_div(log_probabilities, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2

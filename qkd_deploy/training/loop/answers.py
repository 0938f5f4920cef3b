"""The answers of all networks to one batch, as the losses read them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qkd_deploy.distill.phases import LossTerms, Outputs, Role

Answer = Tensor | tuple[Tensor, Tensor]
"""Logits [N, classes], or logits and feature [N, C]."""


def outputs_of(labels: Tensor, answers: Mapping[Role, Answer], progress: float) -> Outputs:
    """Gather logits and features in float32.

    Args:
        labels: of the batch.
        answers: of every network that sees it.
        progress: share of the phase that is over.
    """
    logits: dict[Role, Tensor] = {}
    features: dict[Role, Tensor] = {}
    for role, answer in answers.items():
        if isinstance(answer, tuple):
            answer, feature = answer
            features[role] = feature.float()
        logits[role] = answer.float()
    return Outputs(labels, logits, features, progress)


def total(*losses: LossTerms) -> Tensor:
    """Add up all terms of the losses."""
    return torch.stack([value for terms in losses for value in terms.values()]).sum()

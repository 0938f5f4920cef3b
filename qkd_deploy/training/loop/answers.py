"""The answers of all networks to one batch, as the losses read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from qkd_deploy.distill.phases import LossTerms, Outputs, Role
from qkd_deploy.tasks.task import Task


class WithFeature(NamedTuple):
    """What a network returns, and the feature that another one is compared with."""

    answer: Any
    feature: Tensor


def outputs_of(labels: Tensor, answers: Mapping[Role, Any], progress: float, task: Task) -> Outputs:
    """Gather answers and features in float32.

    Args:
        labels: targets of the batch.
        answers: of every network that sees it; those that compare features give a ``WithFeature``.
        progress: share of the phase that is over.
        task: compares them.
    """
    logits: dict[Role, Any] = {}
    features: dict[Role, Tensor] = {}
    for role, answer in answers.items():
        if isinstance(answer, WithFeature):
            answer, feature = answer
            features[role] = feature.float()
        logits[role] = tree_map_only(Tensor, Tensor.float, answer)
    return Outputs(labels, logits, features, progress, task)


def total(*losses: LossTerms) -> Tensor:
    """Add up all terms of the losses."""
    return torch.stack([value for terms in losses for value in terms.values()]).sum()

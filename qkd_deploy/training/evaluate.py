"""Accuracy of a network on a split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from qkd_deploy.data import Split, batches

if TYPE_CHECKING:
    from qkd_deploy.graph.prepare import PreparedModel


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, *, batch_size: int = 250, limit: int | None = None) -> float:
    """Top-1 accuracy in percent, over the first ``limit`` images of ``split`` (all when None).

    The network is put in evaluation mode for the time and called with normalised float32 images [N, C, H, W] on the
    split's device.
    """
    part = split if limit is None else split.head(limit)
    was_training = network.training
    network.eval()
    correct = 0
    for images, labels in batches(part, batch_size):
        correct += int((network(images).argmax(dim=1) == labels).sum())
    network.train(was_training)
    return 100.0 * correct / len(part)


def integer_accuracy(student: PreparedModel, split: Split, *, limit: int | None = None) -> float:
    """Accuracy in percent of the frozen integer model of ``student``: the accuracy that is reported and deployed."""
    from qkd_deploy.graph.freeze import freeze

    was_training = student.training
    student.eval()
    frozen = freeze(student)
    student.train(was_training)
    return evaluate(frozen, split, limit=limit)

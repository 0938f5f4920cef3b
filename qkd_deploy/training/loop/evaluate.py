"""Accuracy of a network on a split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from qkd_deploy.data import batches
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.data.metric import Metric, scores_of
from qkd_deploy.graph.integer.freeze import freeze
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.training.distribution import Processes


@torch.no_grad()
def evaluate(
    network: nn.Module,
    split: AnySplit,
    *,
    metric: Metric | None = None,
    judge: nn.Module | None = None,
    batch_size: int = 250,
    limit: int | None = None,
    processes: Processes | None = None,
) -> float:
    """Average the score of ``limit`` images of ``split`` (all when None), in percent: top-1 accuracy by default.

    The network is put in evaluation mode for the time and called with normalised float32 images [N, C, H, W] on the
    split's device.

    Args:
        network: what is measured.
        split: where images come from.
        metric: the score of every image; None counts right classes.
        judge: a classifier whose decisions are the labels, where the images have none: the result is the share of
            images on which the two agree.
        batch_size: images at a time.
        limit: number of images.
        processes: that share the images, and all get the mean over all of them.
    """
    part = split if limit is None else split.head(limit)
    totals = torch.zeros(2, dtype=torch.float64)
    with evaluating(network, judge):
        for images, labels in batches(part, batch_size, shard=(0, 1) if processes is None else processes.shard):
            if len(images):
                answers = labels if judge is None else judge(images).argmax(dim=1)
                scores = scores_of(metric, network(images), answers)
                totals += torch.tensor([float(scores.double().sum()), len(images)], dtype=torch.float64)
    if processes is not None:
        totals = processes.sum(totals.to(processes.device)).cpu()
    return 100.0 * float(totals[0]) / float(totals[1])


def integer_accuracy(student: PreparedModel, split: AnySplit, **options: Any) -> float:
    """Measure the frozen integer model of ``student`` with ``evaluate``: the accuracy that is reported and deployed.

    The images are normalised as the student takes them, where it says how.
    """
    normalization = student.settings.normalization or split.normalization
    with evaluating(student):
        frozen = freeze(student)
    return evaluate(frozen, replace(split, normalization=normalization), **options)

"""Accuracy, or whatever a task measures, of a network on a split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from qkd_deploy.data import batches
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.graph.integer.freeze import freeze
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.tasks.classification import CLASSIFICATION
from qkd_deploy.tasks.task import Score, Task, plain_answers
from qkd_deploy.training.distribution import Processes


@torch.no_grad()
def figures_of(
    network: nn.Module,
    split: AnySplit,
    *,
    task: Task = CLASSIFICATION,
    score: Score | None = None,
    judge: nn.Module | None = None,
    batch_size: int = 250,
    limit: int | None = None,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Measure ``limit`` images of ``split`` (all when None), in percent: top-1 accuracy by default.

    The network is put in evaluation mode for the time and called with normalised float32 images [N, C, H, W] on the
    split's device.

    Args:
        network: what is measured.
        split: where images come from.
        task: what is measured, and what the judge decides.
        score: judges the answers instead of the task's own.
        judge: a network whose decisions are the targets, where the images have none: the result says how far the two
            agree; of classifiers, on which share of the images.
        batch_size: images at a time.
        limit: number of images.
        processes: that share the images, and all get the figures over all of them.

    Returns:
        what the task measures, by name; the first figure stands for the rest.
    """
    part = split if limit is None else split.head(limit)
    score = task.score() if score is None else score
    with evaluating(network, judge):
        for images, labels in batches(part, batch_size, shard=(0, 1) if processes is None else processes.shard):
            if len(images):
                targets = labels if judge is None else task.decisions(plain_answers(judge(images)))
                score.add(plain_answers(network(images)), targets)
    if processes is not None:
        first, *others = processes.gather(score)
        first.join(others)
        score = first
    return score.figures()


def evaluate(network: nn.Module, split: AnySplit, **options: Any) -> float:
    """Measure a network with ``figures_of``, and give the figure that stands for the rest."""
    return next(iter(figures_of(network, split, **options).values()))


def integer_accuracy(student: PreparedModel, split: AnySplit, **options: Any) -> float:
    """Measure the frozen integer model of ``student`` with ``evaluate``: the accuracy that is reported and deployed."""
    return evaluate(*as_deployed(student, split), **options)


def as_deployed(student: PreparedModel, split: AnySplit) -> tuple[nn.Module, AnySplit]:
    """Freeze ``student``; the images are normalised as it takes them, where it says how."""
    normalization = student.settings.normalization or split.normalization
    with evaluating(student):
        frozen = freeze(student)
    return frozen, replace(split, normalization=normalization)

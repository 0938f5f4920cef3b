"""Score outputs against labels: right classes, or a data set's own metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.tasks.classification import MeanScore

Metric = Callable[[Any, torch.Tensor], torch.Tensor]
"""From a network's output (a tensor, or a tuple of several) and labels to a score in 0..1 of each sample [N]."""


class OwnMetric(MeanScore):
    """The mean of a data set's own metric.

    Args:
        metric: of the data set.
        name: of the mean.
    """

    def __init__(self, metric: Metric, name: str) -> None:
        super().__init__(name)
        self._metric = metric

    def scores(self, answers: Any, targets: torch.Tensor) -> torch.Tensor:
        """Score each image in 0..1, float32 [N]."""
        return scores_of(self._metric, answers, targets)


def scores_of(metric: Metric | None, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Score each sample in 0..1, float32 [N]; without a metric, 1 where the largest output is the label's.

    Raises:
        UserError: the metric fails or returns something else than that.
    """
    if metric is None:
        predicted: torch.Tensor = outputs.argmax(dim=1)
        return (predicted == labels).to(torch.float32)
    try:
        scores: object = metric(outputs, labels)
    except Exception as error:  # the user's code
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(f"the data set's metric failed with {reason}; correct it") from error
    return _checked(scores, labels)


def _checked(scores: object, labels: torch.Tensor) -> torch.Tensor:
    if not isinstance(scores, torch.Tensor) or scores.shape != labels.shape[:1]:
        shape = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UserError(f"the data set's metric returns {shape} for {len(labels)} samples; return one score for each")
    scores = scores.to(torch.float32)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise UserError("the data set's metric returns scores outside of 0..1; scale them, so that 1 is perfect")
    return scores

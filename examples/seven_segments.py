r"""A task of one's own: which of the seven segments of a display show a digit, instead of which digit it is.

A task says what targets are, how answers are compared with them and with another network's, and what is measured. From
the folder of the examples:

    qkd-deploy train --dataset seven_segments:written_digits --task seven_segments:Segments --model resnet8 \
        --teacher resnet20 --method kd --epochs 10 --out runs/segments
    qkd-deploy export runs/segments/model.pt
    qkd-deploy verify runs/segments/model.onnx --checkpoint runs/segments/model.pt \
        --dataset seven_segments:written_digits --task seven_segments:Segments
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from qkd_deploy import UserError, load_dataset
from qkd_deploy.data import ImageDataset, Split
from qkd_deploy.tasks.classification import MeanScore
from qkd_deploy.tasks.task import Score, Task, Terms

SEGMENTS = ("top", "upper right", "lower right", "bottom", "lower left", "upper left", "middle")
LIT = ("1111110", "0110000", "1101101", "1111001", "0110011", "1011011", "1011111", "1110000", "1111111", "1111011")
"""Which segments show 0, 1, ... 9."""


class WholeDigits(MeanScore):
    """The share of images on which all seven segments are right."""

    def scores(self, answers: Any, targets: Tensor) -> Tensor:
        """Score each image with 0 or 1."""
        return ((answers > 0) == (targets > 0)).all(dim=1).float()


class Segments(Task):
    """Targets are float32 [N, 7], 1 for a segment that is lit; networks return a logit for each, [N, 7]."""

    name = "segments"
    measure = "whole digits"

    def hard_loss(self, answers: Any, targets: Tensor, smoothing: float = 0.0) -> Terms:
        """Compute the binary cross entropy of all segments."""
        wanted = targets * (1 - smoothing) + smoothing / 2
        return {"bce": functional.binary_cross_entropy_with_logits(answers, wanted)}

    def soft_loss(self, answers: Any, imitated: Any, temperature: float) -> Terms:
        """Compute the same towards the probabilities of the network that is imitated."""
        wanted = (imitated.detach() / temperature).sigmoid()
        loss = functional.binary_cross_entropy_with_logits(answers / temperature, wanted)
        return {"soft": loss * temperature**2}

    def score(self) -> Score:
        """Count whole digits."""
        return WholeDigits(self.measure)

    def decisions(self, answers: Any) -> Tensor:
        """Light the segments with positive logits."""
        return (answers > 0).float()

    def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
        """Refuse networks without a logit for each segment."""
        if list(getattr(answers, "shape", [])) != [images, classes]:
            raise UserError(f"{name} does not return logits [N, {classes}]; give it {classes} outputs")

    def check_targets(self, targets: Tensor, classes: Sequence[str], name: str) -> None:
        """Refuse targets that are not 0 or 1 for each segment."""
        if targets.shape[1:] != (len(classes),) or not ((targets == 0) | (targets == 1)).all():
            raise UserError(f"{name} does not say for each segment whether it is lit; give 0 or 1 for each")


def written_digits() -> ImageDataset:
    """The embedded digits, with the segments that show them as targets."""
    digits = load_dataset("digits")
    lit = torch.tensor([[float(one) for one in segments] for segments in LIT])
    splits = [
        Split(split.images_at(torch.arange(len(split))), lit[split.labels]) for split in (digits.train, digits.test)
    ]
    return replace(digits, train=splits[0], test=splits[1], classes=SEGMENTS, task=Segments())

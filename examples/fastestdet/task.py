"""A task of one's own: what FastestDet's answer means, how it is judged, and how another network's is imitated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from qkd_deploy import UserError
from qkd_deploy.tasks.detection.decode import DETECTIONS, as_targets, without_doubles
from qkd_deploy.tasks.detection.score import AT_HALF, MEAN, MeanPrecision
from qkd_deploy.tasks.detection.task import CONFIDENT, Detection
from qkd_deploy.tasks.task import Score, Terms

STRIDE = 16
"""Pixels of a place."""
OVERLAP, LEAST_SCORE = 0.45, 0.001
"""Of boxes of a class that overlap more, the best one is kept; boxes below the score are not reported."""


def detections(answers: Tensor, least_score: float = LEAST_SCORE) -> list[Tensor]:
    """Turn answers [N, 5 + classes, h, w] into detections.

    Returns:
        for each image float32 [D, 6] on the CPU: class, x1, y1, x2, y2, score; the most certain first.
    """
    maps = answers.detach().float().cpu()
    height, width = maps.shape[2:]
    size = torch.tensor([width, height], dtype=torch.float32) * STRIDE
    chance, classes = maps[:, 5:].max(dim=1)
    scores, order = (maps[:, 0] * chance).flatten(1).sort(dim=1, descending=True, stable=True)
    place = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"))
    middle = (maps[:, 1:3].tanh() + place) * STRIDE
    half = maps[:, 3:5].sigmoid() * size.view(1, 2, 1, 1) / 2
    boxes = torch.cat([middle - half, middle + half], dim=1).flatten(2).transpose(1, 2)
    boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
    kinds = classes.flatten(1).gather(1, order)
    kept = without_doubles(boxes, kinds, OVERLAP) & (scores >= least_score)
    rows = torch.cat([kinds[..., None].float(), boxes, scores[..., None]], dim=2)
    return [image[keep][:DETECTIONS] for image, keep in zip(rows, kept, strict=True)]


class Precision(MeanPrecision):
    """The mean average precision, at an overlap of 0.5 first: what FastestDet's author reports."""

    def add(self, answers: Any, targets: Tensor) -> None:
        """Judge one batch; see ``Score``."""
        self.add_detections(detections(answers), targets)

    def figures(self) -> dict[str, float]:
        """Give the precision in percent."""
        found = super().figures()
        return {AT_HALF: found[AT_HALF], MEAN: found[MEAN]}


class GridDetection(Detection):
    """Targets are boxes, see ``qkd_deploy.tasks.detection.targets``; networks return one map [N, 5 + classes, h, w]."""

    name = "grid detection"
    measure = AT_HALF
    feature_point = "SPP"

    def hard_loss(self, answers: Any, targets: Tensor, smoothing: float = 0.0) -> Terms:
        """Refuse labels: this example imitates a network that is trained already.

        Raises:
            UserError: always.
        """
        raise UserError("fastestdet.task has no loss for labels; train with --method sqakd, which imitates a teacher")

    def soft_loss(self, answers: Any, imitated: Any, temperature: float) -> Terms:
        """Compare what is seen everywhere, and, where the other network sees an object, its class and its box."""
        wanted = imitated.detach()
        seen = wanted[:, :1]
        weight = seen / seen.sum().clamp(min=1e-6)
        entropy = functional.binary_cross_entropy(answers[:, :1], seen, reduction="mean")
        logs = answers[:, 5:].clamp(min=1e-8).log(), wanted[:, 5:].clamp(min=1e-8).log()
        kinds = functional.kl_div(*logs, reduction="none", log_target=True).sum(dim=1, keepdim=True)
        places = (answers[:, 1:5] - wanted[:, 1:5]).abs().sum(dim=1, keepdim=True)
        return {"object": entropy, "class": (weight * kinds).sum(), "box": (weight * places).sum()}

    def score(self) -> Score:
        """Begin to measure the mean average precision."""
        return Precision()

    def decisions(self, answers: Any) -> Tensor:
        """Take the confident detections as boxes."""
        return as_targets(detections(answers, CONFIDENT)).to(answers.device)

    def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
        """Refuse networks that return anything else than one map.

        Raises:
            UserError: as it says.
        """
        shape: Sequence[int] = list(answers.shape) if isinstance(answers, Tensor) else []
        if len(shape) != 4 or shape[:2] != [images, 5 + classes]:
            raise UserError(f"{name} returns {shape or type(answers).__name__}; give it {classes} classes")

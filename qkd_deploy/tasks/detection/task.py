"""Detection: boxes around objects of some classes, judged by mean average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qkd_deploy.errors import UserError
from qkd_deploy.tasks.detection.targets import BOX, CLASS, COLUMNS, CROWD, PADDING
from qkd_deploy.tasks.task import Score, Task, Terms

if TYPE_CHECKING:  # the command line reads the tasks' names without torch
    from torch import Tensor

CONFIDENT = 0.4
"""A score from which on a detection is a decision."""


class Detection(Task):
    """Targets are boxes, see ``targets``; networks return raw maps of scores and of distributions of distances.

    The answer of a network is ``(scores, boxes, scores, boxes, ...)``, a pair a level, from the finest to the coarsest:
    logits [N, classes, h, w], and logits [N, 4 * bins, h, w] of the distances from a place to the left, top, right
    and bottom side of its box; bin ``i`` means ``i`` strides. The stride of the last level is 32 pixels, and each level
    has half the stride of the next. Boxes are made of the maps outside of the network (``decode``), so that all of it
    can be integers.
    """

    name = "detection"
    measure = "mAP50-95"
    feature_point = "p3"
    pools_features = False

    def hard_loss(self, answers: Any, targets: Tensor, smoothing: float = 0.0) -> Terms:
        """Compute the losses of Generalized Focal Loss for task-aligned places."""
        from qkd_deploy.tasks.detection.losses import detection_loss

        return detection_loss(answers, targets, smoothing)

    def soft_loss(self, answers: Any, imitated: Any, temperature: float) -> Terms:
        """Compute the divergences of scores and of distances, weighted by certainty."""
        from qkd_deploy.tasks.detection.losses import imitation_loss

        return imitation_loss(answers, imitated, temperature)

    def score(self) -> Score:
        """Begin to measure the mean average precision."""
        from qkd_deploy.tasks.detection.score import MeanPrecision

        return MeanPrecision()

    def decisions(self, answers: Any) -> Tensor:
        """Take the confident detections as boxes."""
        from qkd_deploy.tasks.detection.decode import as_targets, detections_of

        return as_targets(detections_of(answers, CONFIDENT)).to(answers[0].device)

    def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
        """Refuse networks that return no pairs of maps.

        Raises:
            UserError: as it says.
        """
        maps = answers if isinstance(answers, tuple) else ()
        shapes = [list(item.shape) for item in maps]
        if not shapes or len(shapes) % 2 or any(len(shape) != 4 or shape[0] != images for shape in shapes):
            got = shapes or (list(answers.shape) if hasattr(answers, "shape") else type(answers).__name__)
            raise UserError(
                f"{name} returns {got} for {images} images; detection needs pairs of maps (scores [N, classes, h, w], "
                "boxes [N, 4 * bins, h, w]), as the model detector returns them, or a --task (task=...) of its own"
            )
        for level, (scores, boxes) in enumerate(zip(shapes[0::2], shapes[1::2], strict=True)):
            if scores[1] != classes or boxes[1] % 4 or boxes[1] < 8 or scores[2:] != boxes[2:]:
                raise UserError(
                    f"{name} returns maps {scores} and {boxes} as level {level}; detection of {classes} classes needs "
                    f"[N, {classes}, h, w] and [N, 4 * bins, h, w] with at least 2 bins"
                )
        for fine, coarse in zip(shapes[0::2], shapes[2::2], strict=False):
            if fine[2:] != [2 * side for side in coarse[2:]]:
                raise UserError(
                    f"{name} returns maps of {fine[2:]} and then of {coarse[2:]} places; each level needs half the "
                    "places of the one before it on both sides, so give images whose sides are multiples of 32"
                )

    def check_targets(self, targets: Tensor, classes: Sequence[str], name: str) -> None:
        """Refuse targets that are no boxes, or of classes without a name.

        Raises:
            UserError: as it says.
        """
        if targets.dim() != 3 or targets.shape[2] != COLUMNS or not targets.is_floating_point():
            raise UserError(
                f"data set {name} has targets {list(targets.shape)} of {targets.dtype}; detection needs float32 boxes "
                f"[N, M, {COLUMNS}]: class, x1, y1, x2, y2, crowd"
            )
        real = targets[targets[..., CLASS] != PADDING]
        numbers = real[:, CLASS]
        if bool(((numbers < 0) | (numbers >= len(classes)) | (numbers != numbers.floor())).any()):
            low, high = float(numbers.min()), float(numbers.max())
            known = f"but its {len(classes)} classes are numbered from 0"
            raise UserError(f"data set {name} has boxes of classes {low:g}..{high:g}, {known}; correct one of them")
        boxes = real[:, BOX]
        if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise UserError(f"data set {name} has boxes without an area; leave them out")
        if bool(((real[:, CROWD] != 0) & (real[:, CROWD] != 1)).any()):
            raise UserError(f"data set {name} has boxes whose last column is not 0 or 1; write 1 for a crowd")

    def collate(self, targets: Tensor) -> Tensor:
        """Leave out columns of boxes that no image of the batch needs."""
        return targets[:, (targets[..., CLASS] >= 0).any(dim=0)]


DETECTION = Detection()
"""The task of data sets of boxes."""

"""The result of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qkd_deploy.graph.prepared import PreparedModel


@dataclass(frozen=True)
class TrainResult:
    """The networks, files and accuracies of a finished run.

    Attributes:
        folder: the files of the run.
        checkpoint: the student, for ``export``.
        student: the trained network, on the CPU, in evaluation mode.
        accuracy: percent of ``images`` held-out images that the *frozen integer* student classifies correctly; where
            they have no labels, on which it agrees with the teacher.
        images: number of held-out images.
        teacher_accuracy: percent, of the full-precision teacher after the run; None without a teacher or labels.
        measure: what ``accuracy`` is: "accuracy", "agreement with the teacher", or what the task measures.
        figures: all that the task measures, in percent by name; empty without labels.
    """

    folder: Path
    checkpoint: Path
    student: PreparedModel
    accuracy: float
    images: int
    teacher_accuracy: float | None
    measure: str = "accuracy"
    figures: Mapping[str, float] = field(default_factory=dict)

"""Quantization-aware knowledge distillation (Kim et al. 2019, arXiv:1911.12491): three phases.

Self-studying gives the low-bit student a start from which distillation helps; co-studying makes the teacher better and
friendlier to quantization; tutoring finishes with the teacher frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import PositiveFloat

from qkd_deploy.distill.losses import imitation, labels_only
from qkd_deploy.distill.phases import Phase, SharedOptions


@dataclass(frozen=True, kw_only=True)
class QkdOptions(SharedOptions):
    """The options of QKD; the paper's ratio is unknown, 1/10 is the middle of those in use."""

    teacher_lr_ratio: Annotated[PositiveFloat, "The teacher's learning rate over the student's, where both learn."] = (
        0.1
    )


def qkd_phases(epochs: Sequence[int], options: QkdOptions) -> list[Phase]:
    """List the phases self-study, co-study and tutor."""
    self_study, co_study, tutor = epochs
    temperature, smoothing = options.temperature, options.label_smoothing
    student = imitation("student", "teacher", temperature, smoothing)
    teacher = imitation("teacher", "student", temperature, smoothing)
    return [
        Phase("self-study", self_study, {"student": labels_only("student", smoothing)}),
        Phase(
            "co-study",
            co_study,
            # Both learn from the same batch, at the same time.
            {"student": student, "teacher": teacher},
            # The paper's value is unknown; 1/10 is the middle of those in use.
            learning_rate_factors={"teacher": options.teacher_lr_ratio},
        ),
        Phase("tutor", tutor, {"student": student}, frozen=("teacher",)),
    ]

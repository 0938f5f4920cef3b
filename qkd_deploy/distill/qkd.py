"""Quantization-aware knowledge distillation (Kim et al. 2019, arXiv:1911.12491): three phases.

Self-studying gives the low-bit student a start from which distillation helps; co-studying makes the teacher better and
friendlier to quantization; tutoring finishes with the teacher frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

from qkd_deploy.distill.kd import imitation
from qkd_deploy.distill.phases import MethodOptions, Phase
from qkd_deploy.distill.qat import labels_only


def qkd_phases(epochs: Sequence[int], options: MethodOptions) -> list[Phase]:
    """Self-study, co-study and tutor; a phase of 0 epochs is left out."""
    self_study, co_study, tutor = epochs
    student = imitation("student", "teacher", options.temperature)
    teacher = imitation("teacher", "student", options.temperature)
    phases = [
        Phase("self-study", self_study, {"student": labels_only("student")}),
        Phase(
            "co-study",
            co_study,
            # Both learn from the same batch, at the same time.
            {"student": student, "teacher": teacher},
            # The paper's value is unknown; 1/10 is the middle of those in use.
            learning_rate_factors={"teacher": options.teacher_learning_rate_ratio},
        ),
        Phase("tutor", tutor, {"student": student}, frozen=("teacher",)),
    ]
    return [phase for phase in phases if phase.epochs > 0]

"""Distillation from a fixed teacher: the baseline without co-studying."""

from __future__ import annotations

from collections.abc import Sequence

from qkd_deploy.distill.losses import imitation
from qkd_deploy.distill.phases import Phase, SharedOptions


def kd_phases(epochs: Sequence[int], options: SharedOptions) -> list[Phase]:
    """List the one phase, with the teacher frozen."""
    student = imitation("student", "teacher", options.temperature, options.label_smoothing)
    return [Phase("distillation", epochs[0], {"student": student}, frozen=("teacher",))]

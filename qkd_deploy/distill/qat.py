"""Quantization-aware training on labels only: the baseline without a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from qkd_deploy.distill.losses import labels_only
from qkd_deploy.distill.phases import Phase, SharedOptions


def qat_phases(epochs: Sequence[int], options: SharedOptions) -> list[Phase]:
    """List the one phase."""
    return [Phase("labels", epochs[0], {"student": labels_only("student", options.label_smoothing)})]

"""Self-supervised quantization-aware knowledge distillation (Zhao & Zhao 2024, arXiv:2403.11106).

One phase without labels: the student starts from the weights of a frozen full-precision teacher of the same
architecture and minimises ``alpha * T^2 * KL(p_teacher || p_student)`` alone, with T = 4. The discretisation error is
no term of the loss; the quantizer's gradient takes care of it (``quantizers/ewgs.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from qkd_deploy.distill.phases import Loss, LossTerms, Outputs, Phase, SharedOptions


def teacher_only(temperature: float, alpha: float) -> Loss:
    """Make the loss ``alpha * T^2 KL(p_teacher || p_student)``."""

    def loss(outputs: Outputs) -> LossTerms:
        soft = outputs.task.soft_loss(outputs.logits["student"], outputs.logits["teacher"], temperature)
        return {name: alpha * value for name, value in soft.items()}

    return loss


def sqakd_phases(epochs: Sequence[int], options: SharedOptions) -> list[Phase]:
    """List the one phase, with the teacher frozen; labels are never read."""
    loss = teacher_only(options.temperature, options.soft_loss)
    return [Phase("label-free", epochs[0], {"student": loss}, frozen=("teacher",), needs_labels=False)]

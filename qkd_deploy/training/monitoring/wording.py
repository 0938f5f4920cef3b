"""Losses, epochs, speeds and durations in words, as the progress and the summary of a run show them."""

from __future__ import annotations

from qkd_deploy.training.monitoring.metrics import EpochRecord


def loss_text(losses: dict[str, dict[str, float]]) -> str:
    """Write losses in a few words, such as ``student ce 0.312 kl 0.118``."""
    parts = []
    for role, terms in losses.items():
        parts.append(role + "".join(f" {name} {value:.3f}" for name, value in terms.items()))
    return "  ".join(parts)


def epoch_line(record: EpochRecord, seconds_left: float) -> str:
    """Sum up an epoch in one line, with ``seconds_left`` of its stage."""
    title = record.phase if record.phase == record.stage else f"{record.stage}/{record.phase}"
    accuracy = "" if record.accuracy is None else f"  {record.measure} {record.accuracy:.2f} %"
    speed = f"  {speed_text(record.images_per_second)}" if record.images_per_second else ""
    left = f"  {duration(seconds_left)} left" if record.epoch < record.epochs else ""
    return f"{title}  epoch {record.epoch}/{record.epochs}  {loss_text(record.losses)}{accuracy}{speed}{left}"


def speed_text(images_per_second: float) -> str:
    """Write a throughput, such as ``1,234 images/s`` or ``0.7 images/s``."""
    return f"{images_per_second:,.0f} images/s" if images_per_second >= 10 else f"{images_per_second:.1f} images/s"


def duration(seconds: float) -> str:
    """Write a rounded duration, such as ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

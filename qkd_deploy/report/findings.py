"""Everything that a report shows, as it was found: no words and no drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkd_deploy.bench.layers import KernelTime
from qkd_deploy.checkpoints.records import TrainingRecord
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.observation import TensorObservation
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.workflows.inspect import Inspection


@dataclass(frozen=True)
class Gap:
    """Something that is missing.

    Attributes:
        what: a sentence that says what, and why.
        command: the one that makes it; "" where there is none.
    """

    what: str
    command: str = ""


@dataclass(frozen=True)
class Source:
    """Where numbers come from.

    Attributes:
        what: the numbers.
        command: what was run, or what gives them again.
        commit: of the code that ran; "" where nobody recorded it.
        date: when, in UTC; "" where nobody recorded it.
        machine: the CPU; "" where nobody recorded it.
    """

    what: str
    command: str
    commit: str = ""
    date: str = ""
    machine: str = ""


@dataclass(frozen=True)
class Codes:
    """The quantized tensors of a trained network.

    Attributes:
        tensors: weights and activations; weights alone where there were no images to run.
        images: how many images activations were looked at on.
        parameters: numbers that the float network learned.
    """

    tensors: tuple[TensorObservation, ...]
    images: int
    parameters: int


@dataclass(frozen=True)
class Findings:
    """A run and its exported file.

    Attributes:
        folder: of the run.
        config: its settings.
        records: its epochs.
        training: what the checkpoint records of its training; None before it ended.
        start: what the full-precision start reached; None where nothing tells.
        file: the exported file; None without one.
        codes: the quantized tensors; None before training ended.
        inspection: the layers of the file, or else of the checkpoint.
        verification: the outcome of ``verify``; None without a file.
        times: the kernels of the file.
        gaps: what is missing, by the section that lacks it.
        sources: by section, where its numbers come from.
        machine: as ``provenance`` gives it.
    """

    folder: Path
    config: TrainConfig
    records: list[EpochRecord]
    training: TrainingRecord | None
    start: TrainingRecord | None
    file: Path | None
    codes: Codes | None
    inspection: Inspection | None
    verification: VerificationReport | None
    times: tuple[KernelTime, ...]
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """What is measured, such as "accuracy" or "mIoU"."""
        if self.training is not None and self.training.figures:
            return next(iter(self.training.figures))
        return self.records[-1].measure if self.records else "accuracy"

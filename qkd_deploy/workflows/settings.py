"""Settings of post-training quantization and of the measurement of sensitivity; readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from qkd_deploy.calibration.settings import IMAGES, CalibrationSettings, FinishingSettings
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.mixed_precision.settings import BudgetSettings
from qkd_deploy.training.groups import DataSource, Student


@dataclass(frozen=True, kw_only=True)
class PostTraining(DataSource, Student, NetworkBits, BudgetSettings, CalibrationSettings, FinishingSettings):
    """How full-precision weights are quantized without training.

    Raises:
        UserError: a value of the wrong type or out of range.
    """


@dataclass(frozen=True, kw_only=True)
class SensitivityData(DataSource, Student):
    """The network, and the images on which its sensitivity is measured.

    Raises:
        UserError: a value of the wrong type or out of range.
    """

    images: Annotated[int, Field(ge=1), "Training images to measure on."] = IMAGES

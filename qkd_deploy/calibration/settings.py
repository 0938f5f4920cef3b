"""How a prepared network is calibrated, as far as the user decides it; readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from qkd_deploy.quantizers.settings import SCALE_METHODS
from qkd_deploy.settings import OneOf, Settings

IMAGES = 512
"""Training images that are enough, whatever they are used for."""


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(Settings):
    """The arguments of ``calibrate``."""

    group = "calibration"

    images: Annotated[int, Field(ge=1), "Training images to calibrate on."] = IMAGES
    step_initialization: Annotated[str, OneOf(*SCALE_METHODS), "How quantization steps are chosen."] = "mse"
    batch_norm: Annotated[bool, "Estimate batch norms anew in the quantized network; pays at 4 bits and fewer."] = False
    correction: Annotated[bool, "Give every channel the mean and the spread that it had in float."] = True


@dataclass(frozen=True, kw_only=True)
class FinishingSettings(Settings):
    """What follows ``calibrate`` where nothing is trained."""

    group = "calibration"

    reconstruct: Annotated[
        bool,
        "Choose weights layer by layer so that outputs stay those in full precision; takes minutes, needs no labels, "
        "and pays most at 4 bits and fewer.",
    ] = False

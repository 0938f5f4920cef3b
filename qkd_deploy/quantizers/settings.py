"""The names by which users choose a quantizer and its start; readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from qkd_deploy.settings import OneOf, Settings

QUANTIZER_NAMES = ("interval", "lsq", "pact", "dorefa", "ewgs", "qil")
"""The keys of ``registry.QUANTIZERS``."""

SCALE_METHODS = ("mse", "percentile", "lsq", "minmax")
"""How a scale is found for given values; see ``scale_search``."""


@dataclass(frozen=True, kw_only=True)
class QuantizerSettings(Settings):
    """Which quantizer learns, and from where."""

    group = "bits"

    quantizer: Annotated[
        str,
        OneOf("auto", *QUANTIZER_NAMES),
        "How tensors learn to be quantized; `auto` becomes the method's own.",
    ] = "auto"
    step_initialization: Annotated[
        str,
        OneOf("auto", *SCALE_METHODS),
        "How quantization steps start; `auto` is what suits the quantizer.",
    ] = "auto"

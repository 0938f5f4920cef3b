"""How strictly a file is verified, as far as the user decides it; readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import NonNegativeFloat

from qkd_deploy.settings import Settings, Wanted


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Settings):
    """Demands on a file beside equal codes."""

    group = "checks"

    tolerance: Annotated[
        NonNegativeFloat,
        "Points of accuracy by which the float preview may differ from the integer model, where chance does not move "
        "the measure by more.",
        Wanted("it must be a number of points, 0 or more"),
    ] = 0.1
    require_integer: Annotated[bool, "Fail if ONNX Runtime computes anything in float."] = False
    strict_codes: Annotated[
        bool, "Fail if parts of a tensor keep hardly any of the information of their values in their codes."
    ] = False

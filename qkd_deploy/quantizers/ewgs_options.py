"""The options of EWGS alone; readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated

from pydantic import AfterValidator, Field

from qkd_deploy.errors import UserError
from qkd_deploy.settings import Settings


def _require_delta(text: str) -> str:
    try:
        usable = text == "hessian" or 0 <= float(text) < inf
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"delta is {text!r}; give a number that is not negative, or hessian")
    return text


@dataclass(frozen=True, kw_only=True)
class EwgsOptions(Settings):
    """How EWGS scales gradients (arXiv:2104.00903)."""

    group = "bits"

    delta: Annotated[
        str,
        AfterValidator(_require_delta),
        "Of `ewgs`, the factor on the rounding error in the gradient: a number (0 is the plain "
        "straight-through estimator), or `hessian`, which estimates it per layer from the Hessian's trace.",
    ] = "hessian"
    delta_every: Annotated[int, Field(ge=1), "Of `ewgs`: epochs between two estimates of delta."] = 10

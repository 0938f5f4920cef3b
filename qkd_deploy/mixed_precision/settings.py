"""Bits under a budget, as far as the user decides them; readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from qkd_deploy.bits import BitWidths
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.settings import Names, Settings


def _require_budget(text: str) -> str:
    if text:
        Budget.parse(text)
    return text


def _require_bits(candidates: tuple[str, ...]) -> tuple[str, ...]:
    for bits in candidates:
        BitWidths.parse(bits)
    return candidates


@dataclass(frozen=True, kw_only=True)
class BudgetSettings(Settings):
    """The budget, and what may be chosen."""

    group = "bits"

    auto_bits: Annotated[
        str,
        AfterValidator(_require_budget),
        "Choose bits under a budget, such as `'size<=2MB'` or `'bitops<=50%'`, for each layer that "
        "neither `--bits-for` nor `--first-last-bits` decides.",
    ] = ""
    auto_bits_from: Annotated[Names, AfterValidator(_require_bits), "The bits to choose from, with commas."] = (
        "w8a8",
        "w4a4",
        "w2a4",
    )

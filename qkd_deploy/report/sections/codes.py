"""Bits, signal-to-noise and the histogram of codes of every quantized tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qkd_deploy.report import svg
from qkd_deploy.report.charts import Bar, bars, histogram
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.tables import Card, Cards, Plot, Table, count, number, share
from qkd_deploy.training.monitoring.observation import TensorObservation

MOST_BARS = 60
"""Drawings; a larger network's noisiest tensors are drawn, and the tables have all."""
BEST: Mapping[int, float] = {2: 9.25, 3: 14.27, 4: 19.38, 5: 24.57, 6: 29.83, 7: 35.13, 8: 40.34}
"""Signal-to-noise in dB of the best evenly spaced codes for a normal distribution (Max 1960), by bits."""
_GROUPS = 16
_FEW_BITS = 4
_USED = 0.75
"""Share of the codes of a tensor of few bits that should occur."""
_CLIPPED = 0.05
_NOISY = 6.0
"""dB, about one bit, by which a tensor may stay below ``BEST``."""


@dataclass(frozen=True)
class CodesSection:
    """The section: how many tensors use all of their codes, a chart of noise and histograms for each kind."""

    few_bits: int
    full: int
    warned: int
    images: int
    noise: Sequence[Plot]
    groups: Sequence[Cards]


def codes(findings: Findings, most: int) -> CodesSection | None:
    """Draw the codes of a trained network, at most so many tensors of a kind; None before training has ended."""
    if findings.codes is None:
        return None
    tensors = findings.codes.tensors
    few = [one for one in tensors if one.bits <= _FEW_BITS]
    kinds = [("Weights", svg.BLUE, [one for one in tensors if one.kind == "weight"])]
    kinds.append(("Activations", svg.VIOLET, [one for one in tensors if one.kind == "activation"]))
    present = [kind for kind in kinds if kind[2]]
    return CodesSection(
        few_bits=len(few),
        full=sum(one.levels_used == 1 for one in few),
        warned=sum(bool(_warnings(one)) for one in tensors),
        images=findings.codes.images,
        noise=[_noise(*kind) for kind in present],
        groups=[_cards(*kind, most) for kind in present],
    )


def _noise(title: str, colour: str, tensors: list[TensorObservation]) -> Plot:
    known = [one for one in tensors if math.isfinite(one.snr)]
    drawn = {one.name for one in sorted(known, key=lambda one: one.snr)[:MOST_BARS]}
    rows = [
        Bar(one.name, f"{one.bits} bits, {one.snr:.1f} dB", [(max(one.snr, 0), colour)], BEST.get(one.bits))
        for one in known
        if one.name in drawn
    ]
    label = f"Signal-to-noise ratio of {title.lower()} in decibels, by layer"
    return Plot(f"Signal-to-noise: {title.lower()}", bars(rows, label), _noise_table(title, tensors))


def _noise_table(title: str, tensors: Sequence[TensorObservation]) -> Table:
    rows = [[one.name, str(one.bits), number(one.snr, 3), number(BEST.get(one.bits))] for one in tensors]
    columns = ["tensor", "bits#", "signal-to-noise, dB#", "best for a bell curve, dB#"]
    return Table(f"Signal-to-noise of {title.lower()}", columns, rows)


def _cards(title: str, colour: str, tensors: list[TensorObservation], most: int) -> Cards:
    drawn = {one.name for one in sorted(tensors, key=lambda one: _missing(one), reverse=True)[:most]}
    cards = [_card(one, colour) for one in tensors if one.name in drawn]
    return Cards(title, cards, _table(title, tensors), len(tensors) - len(cards))


def _missing(one: TensorObservation) -> float:
    """By how many dB a tensor stays below the best of its bits."""
    return BEST.get(one.bits, 0.0) - one.snr if math.isfinite(one.snr) else -math.inf


def _used(one: TensorObservation) -> int:
    return sum(found > 0 for found in one.counts)


def _card(one: TensorObservation, colour: str) -> Card:
    used = f"{_used(one)} of {len(one.counts)} levels used"
    label = f"How often each code of {one.name} occurs, {used}"
    noise = "no noise" if math.isinf(one.snr) else f"{number(one.snr, 3)} dB"
    lines = [count(one.bits, "bit"), used, noise, f"{share(one.clipped)} clipped"]
    return Card(one.name, histogram(one.counts, colour, label), lines, _warnings(one))


def _warnings(one: TensorObservation) -> list[str]:
    """What to look at in a tensor, in a few words each."""
    found = []
    if one.bits <= _FEW_BITS and one.levels_used < _USED:
        found.append("few levels used")
    if one.clipped > _CLIPPED:
        found.append("much is clipped")
    if _missing(one) > _NOISY:
        found.append("noisy for its bits")
    return found


def _table(title: str, tensors: Sequence[TensorObservation]) -> Table:
    rows = [
        [
            one.name,
            str(one.bits),
            f"{one.lo} … {one.lo + len(one.counts) - 1}".replace("-", "−"),
            f"{_used(one)} of {len(one.counts)}",
            share(one.below),
            share(one.above),
            number(one.scale),
            _counts(one),
        ]
        for one in tensors
    ]
    columns = ["tensor", "bits#", "codes#", "levels used#", "clipped below#", "clipped above#", "scale#"]
    return Table(f"Codes of {title.lower()}", [*columns, "how often each code occurs"], rows)


def _counts(one: TensorObservation) -> str:
    """How often each code occurs; of many codes, how often those of each sixteenth do."""
    if len(one.counts) <= 2 * _GROUPS:
        return " ".join(map(str, one.counts))
    return "in sixteenths: " + " ".join(str(group.sum()) for group in np.array_split(one.counts, _GROUPS))

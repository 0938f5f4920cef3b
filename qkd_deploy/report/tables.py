"""Tables, plots with the tables behind them, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

_SEEN = 24
"""Small drawings of one kind that are seen at once."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        caption: what it lists.
        columns: their titles; those of numbers end in "#", which is not shown.
        rows: the cells, of which the first names the row.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """A drawing with its table.

    Attributes:
        title: what it shows.
        drawing: SVG.
        table: the same as text.
        legend: names of curves with the CSS variable and the dashes of each.
    """

    title: str
    drawing: Markup
    table: Table
    legend: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True)
class Card:
    """A small drawing of one tensor.

    Attributes:
        name: of the tensor.
        drawing: SVG.
        lines: what stands below, in pieces that stay whole.
        warnings: a few words for each thing to look at.
    """

    name: str
    drawing: Markup
    lines: Sequence[str]
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Cards:
    """Small drawings of one kind; ``hidden`` further ones are only in the table."""

    title: str
    cards: Sequence[Card]
    table: Table
    hidden: int = 0

    @property
    def first(self) -> list[Card]:
        """Those that are seen at once: what is to be looked at, and the first others."""
        room = _SEEN - sum(bool(card.warnings) for card in self.cards)
        others = [card for card in self.cards if not card.warnings][: max(room, 0)]
        return [card for card in self.cards if card.warnings or card in others]

    @property
    def more(self) -> list[Card]:
        """The others."""
        first = self.first
        return [card for card in self.cards if card not in first]


def number(value: float | None, digits: int = 4) -> str:
    """A number of so many significant digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.{digits}g}".replace("-", "−") if abs(value) < 10**digits else f"{value:,.0f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A figure in percent."""
    return "–" if value is None else f"{value:.2f}\N{NO-BREAK SPACE}%"


def share(value: float) -> str:
    """A share of 1, in percent."""
    return "0 %" if value == 0 else "< 0.1 %" if value < 0.001 else f"{100 * value:.1f} %"


def change(before: float, after: float) -> str:
    """By how much a positive number changed, in percent."""
    moved = 100 * (after / before - 1)
    return "unchanged" if abs(moved) < 0.05 else f"{moved:+.1f} %".replace("-", "−")


def kilobytes(size: float) -> str:
    """A size in kB or MB."""
    return f"{size / 1e6:,.2f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def duration(seconds: float) -> str:
    """A short time in ms or µs."""
    return f"{seconds * 1e3:,.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.1f} µs"


def count(size: int, word: str) -> str:
    """How many there are of something."""
    return f"{size:,} {word}" if size == 1 else f"{size:,} {word}s"

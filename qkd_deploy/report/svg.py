"""Turn figures of matplotlib into SVG that belongs to a page: its colours, its font, no names that collide."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from qkd_deploy.errors import printable

TEXT, MUTED, GRID, SURFACE = "#000001", "#000002", "#000003", "#000004"
BLUE, ORANGE, GREEN, RED, VIOLET = "#000011", "#000012", "#000013", "#000014", "#000015"
BAND = "#000021"
"""Colours that stand for those of the page, which has others in the dark."""
VARIABLES = {
    TEXT: "--text",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    RED: "--red",
    VIOLET: "--violet",
    BAND: "--band",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qkd-deploy",
    "text.parse_math": False,  # names of layers are no formulas
    "font.size": 12,
    "text.color": TEXT,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "path.simplify_threshold": 0.3,
}
_HEAD = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_SIZE = re.compile(r' (?:width|height)="[\d.]+pt"| xmlns(?::\w+)?="[^"]*"| version="[\d.]+"')
_IDENTIFIER = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:xlink:)?href="#([^"]*)"|url\(#([^)]*)\)')
_FONT = re.compile(r"font: ([\d.]+px) [^;\"]*|font-family: [^;\"]*")
_LONG = re.compile(r"(-?\d+\.\d{2})\d+")
_numbers = itertools.count(1)


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """Make a figure of so many pixels, in the style of the page."""
    with mpl.rc_context(_SETTINGS):
        yield Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def as_svg(figure: Figure, label: str, css: str = "") -> Markup:
    """Write a figure as an element of a page; call it inside ``drawing``.

    Args:
        figure: what is drawn.
        label: says what it shows, to those who cannot see it.
        css: class of the element.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = _SIZE.sub("", _HEAD.sub("", buffer.getvalue()))
    text = _own_names(text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = _FONT.sub(lambda found: f"font-size: {found[1]}" if found[1] else "", text)
    text = _LONG.sub(r"\1", " ".join(text.split()).replace("> <", "><"))
    attributes = f' class="{css}"' if css else ""
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"{attributes}', 1)
    return Markup(printable(text, keep=""))


def _own_names(text: str) -> str:
    """Leave out names that nothing refers to, and make the others unlike those of all other figures."""
    used = {name for pair in _REFERENCE.findall(text) for name in pair if name}
    prefix = f"f{next(_numbers)}-"

    def named(found: re.Match[str]) -> str:
        return f' id="{prefix}{found[1]}"' if found[1] in used else ""

    text = _IDENTIFIER.sub(named, text)
    return _REFERENCE.sub(lambda f: f'href="#{prefix}{f[1]}"' if f[1] else f"url(#{prefix}{f[2]})", text)

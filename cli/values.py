"""Types of command-line values: they turn text into what the API takes, and say how to write it."""

from __future__ import annotations

import re
import tomllib
from math import isfinite
from typing import Any

import click

from qkd_deploy.errors import closest

_WORD = re.compile(r"[A-Za-z_~./][^\n\"']*")
"""Text that cannot be mistaken for another TOML value: it begins like a name or a path."""


class Choice(click.Choice[str]):
    """One of a few words; a wrong one gets a suggestion."""

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        """Say what is supported, and which of it resembles the value."""
        known = ", ".join(self.choices)
        hint = closest(value, self.choices, then=f"choose {'one of ' if len(self.choices) > 1 else ''}{known}")
        return f"{value!r} is not supported; {hint}"


class TargetName(click.ParamType[str]):
    """The name of a runtime, of this package or registered by another one."""

    name = "NAME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Look it up; a wrong one gets a suggestion."""
        from qkd_deploy.export.targets.registry import target_names

        known = target_names()
        if value not in known:
            hint = closest(value, known, then=f"choose one of {', '.join(known)}")
            self.fail(f"{value!r} is not supported; {hint}", param, ctx)
        return str(value)


class Points(click.FloatRange):
    """A number of percentage points: 0 or more, and finite."""

    name = "points"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number; NaN and infinity are none."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value!r} is no number of points", param, ctx)
        return number


class Epochs(click.ParamType[tuple[int, ...]]):
    """``30`` or ``30,100,70``."""

    name = "N[,N...]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read whole numbers between commas."""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}; give one number, or one per phase such as 30,100,70", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """``self-study,tutor``."""

    name = "NAME[,NAME...]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split between commas."""
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r}; write names with commas between them", param, ctx)
        return names


class Pair(click.ParamType[tuple[str, str]]):
    """Two words with an equals sign between them.

    Args:
        name: the form, for help texts.
        advice: what to write instead of something else.
    """

    def __init__(self, name: str, advice: str) -> None:
        self.name = name
        self._advice = advice

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split at the last equals sign."""
        left, _, right = str(value).rpartition("=")
        if not left or not right:
            self.fail(f"{value!r}; write {self._advice}", param, ctx)
        return left, right


OVERRIDE = Pair("PATTERN=BITS", "PATTERN=wXaY, such as 'layer3.*=w8a8'")
REPLACEMENT = Pair("[PATTERN:]OLD=NEW", "OLD=NEW, such as silu=relu6, or 'features.*:silu=relu6'")


class Argument(click.ParamType[tuple[str, Any]]):
    """``KEY=VALUE`` with a TOML value; a plain word needs no quotes, which a shell would take off."""

    name = "KEY=VALUE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Split at the first equals sign and read what follows as TOML."""
        key, _, text = str(value).partition("=")
        if not key.isidentifier() or not text.strip():
            self.fail(f"{value!r}; write KEY=VALUE, such as depth=3", param, ctx)
        if text in ("True", "False", "None"):
            advice = "leave the argument out" if text == "None" else f"write {key}={text.lower()}"
            self.fail(f"{text} is Python's spelling; {advice}", param, ctx)
        try:
            parsed = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):  # no TOML, a number of too many digits, or nested too deep
            parsed = {"value": text} if _WORD.fullmatch(text) else {}
        if set(parsed) != {"value"} or not isinstance(parsed["value"], (str, int, float, bool, list, dict)):
            self.fail(f"{text!r} is no value; write a number, true, false, [a, list] or '\"text\"'", param, ctx)
        return key, parsed["value"]

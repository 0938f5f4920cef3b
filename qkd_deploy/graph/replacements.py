"""Which activation function takes the place of another, as the user writes it; readable without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qkd_deploy.errors import UserError, closest

FUNCTIONS = (
    *("relu", "relu6", "leaky_relu", "silu", "hardswish", "gelu", "mish", "elu", "selu", "celu"),
    *("sigmoid", "hardsigmoid", "tanh", "softplus"),
)
"""Activation functions that may replace each other, by PyTorch's names."""


@dataclass(frozen=True)
class Replacement:
    """One rule: in modules whose path matches ``pattern``, the function ``old`` becomes ``new``."""

    pattern: str
    old: str
    new: str

    def matches(self, function: str, path: str) -> bool:
        """True for a function that a module of that path calls."""
        return function == self.old and fnmatchcase(path, self.pattern)

    def __str__(self) -> str:
        place = "" if self.pattern == "*" else f"{self.pattern}:"
        return f"{place}{self.old}={self.new}"


def parse_replacements(table: Mapping[str, str]) -> tuple[Replacement, ...]:
    """Read new functions by ``OLD`` or ``PATTERN:OLD``.

    Raises:
        UserError: a function that is not known, or an empty pattern.
    """
    return tuple(_rule(key, new) for key, new in table.items())


def _rule(key: str, new: str) -> Replacement:
    pattern, colon, old = key.rpartition(":")
    if colon and not pattern:
        raise UserError(f"the replacement '{key}={new}' has no pattern before its colon; leave the colon out")
    for name in (old, new):
        if name not in FUNCTIONS:
            hint = closest(name, FUNCTIONS, then=f"choose one of {', '.join(FUNCTIONS)}")
            raise UserError(f"the replacement '{key}={new}' names {name!r}, which is no function that it knows; {hint}")
    return Replacement(pattern or "*", old, new)


def replaced_in_words(replaced: Mapping[str, int]) -> str:
    """Write what was replaced, by ``OLD=NEW`` the number of places: ``silu=relu6 (49), sigmoid=hardsigmoid (16)``."""
    return ", ".join(f"{names} ({places})" for names, places in replaced.items())

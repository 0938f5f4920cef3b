"""Data from a file, looked at once before anything is made of them: plain, and of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_VALUES, _DEEPEST, _LONGEST = 1_000_000, 32, 100_000
"""More than any checkpoint needs, and little enough to look at in a second."""


def is_plain_data(value: Any) -> bool:
    """True for text, numbers, true, false and none, and for lists and tables of those, of bounded size.

    A list that a file refers to many times counts as often, so that a few bytes cannot become billions of values.
    """
    waiting, seen = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        if not isinstance(item, Mapping) and type(item) not in (list, tuple):
            if not _is_single(item):
                return False
            continue
        seen += len(item)
        if seen > _MOST_VALUES or depth > _DEEPEST:
            return False
        if isinstance(item, Mapping) and not all(type(key) is str and _is_single(key) for key in item):
            return False
        inner = item.values() if isinstance(item, Mapping) else item
        waiting += [(part, depth + 1) for part in inner]
    return True


def _is_single(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= _LONGEST
    if type(value) is int:
        return -(2**63) <= value < 2**64
    return value is None or type(value) in (bool, float)

"""Ways out of errors: a mistake, what the sentence says of it, and what it recommends, done to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qkd_deploy.errors import UserError


@dataclass(frozen=True)
class Way:
    """A way out.

    Attributes:
        wrong: makes the mistake; like ``right`` it gets an empty folder.
        said: words of the sentence that answers it, as they are.
        right: does what the sentence recommends, from where the user stands.
    """

    wrong: Callable[[Path], object]
    said: str
    right: Callable[[Path], object]


def follow(way: Way, folder: Path) -> None:
    """Make the mistake, find the sentence, and do what it recommends."""
    with pytest.raises(UserError) as refused:
        way.wrong(folder)
    message = str(refused.value)
    assert way.said in message, message
    assert "\n" not in message and "\x1b" not in message
    way.right(folder)

"""Ways out of errors: a mistake, what the sentence says of it, and what it recommends, done to the end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from sentences import followed_by, is_said, the_one_with

from qkd_deploy.errors import UserError


@dataclass(frozen=True)
class Way:
    """A way out.

    Attributes:
        wrong: makes the mistake; like ``right`` it gets an empty folder.
        said: words of the sentence that answers it, as they are; as the source has them where a test is named.
        right: does what the sentence recommends, from where the user stands.
        advice: what is recommended, where the source has not all of its words.
    """

    wrong: Callable[[Path], object]
    said: str
    right: Callable[[Path], object]
    advice: str = ""


def follow(way: Way, folder: Path, test: str = "") -> None:
    """Make the mistake, find the sentence, and do what it recommends.

    Args:
        way: a row of a test's table.
        folder: where files are written.
        test: as the list of sentences names it; with it, the whole sentence is looked for, else any that the running
            test follows.
    """
    with pytest.raises(UserError) as refused:
        way.wrong(folder)
    message = str(refused.value)
    if test:
        assert is_said(the_one_with(way.said, test), message) and way.advice in message, message
    else:
        assert way.said in message and any(is_said(text, message) for text in followed_by(_running())), message
    assert "\n" not in message and "\x1b" not in message
    way.right(folder)


def _running() -> str:
    """The test that runs, as the list of sentences names it."""
    return re.split(r"[\[ ]", os.environ["PYTEST_CURRENT_TEST"])[0]


def require_all(ways: Mapping[str, Way], test: str) -> None:
    """Require a row for every sentence that a test follows, as the list says, and all that it recommends in the row."""
    rows = {name: the_one_with(way.said, test) for name, way in ways.items()}
    assert set(rows.values()) == set(followed_by(test))
    assert [name for name, text in rows.items() if "{}" in text.rpartition("; ")[2] and not ways[name].advice] == []

"""The one exception for users' mistakes, the one warning, the hint for a misspelt word, and text that can be shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of control and format characters, lone surrogates, and separators of lines and paragraphs."""
_BRIEF = 80
"""Characters of a value inside a sentence."""


class UserError(Exception):
    """Bad usage or bad input: one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with code 2; library callers may catch it.
    """


class QuantizationWarning(UserWarning):
    """A model is quantized or read as asked, but perhaps not as it was meant: one sentence that says where and why.

    The command line prints the sentence on stderr.
    """


def unreadable(path: object, error: OSError) -> UserError:
    """Make the error of a file or folder that the operating system does not let us read."""
    return UserError(f"cannot read {path}: {error.strerror or error}; name another one, or change its permissions")


def require_kind(value: object, kinds: type | tuple[type, ...], name: str, advice: str) -> None:
    """Refuse an argument of another class than expected.

    Args:
        value: the argument.
        kinds: the class or classes that it may have.
        name: what it is called.
        advice: what to pass.

    Raises:
        UserError: it has another class; names both.
    """
    if not isinstance(value, kinds):
        given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise UserError(f"{name} is {given}; {advice}")


def in_brief(value: object) -> str:
    """What a value looks like, on one line of 80 characters at most: a network or a tensor prints pages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 4]} ..."


def closest(word: object, known: Iterable[str], *, cutoff: float = 0.6, otherwise: str = "", then: str = "") -> str:
    """Ask ``did you mean 'name'?`` for the known name that resembles a word, whatever its case.

    Args:
        word: what the user wrote.
        known: the names that there are.
        cutoff: how alike they must be, from 0 to 1.
        otherwise: what to say where none is.
        then: what to say in both cases, behind it.
    """
    import difflib  # only mistakes need it

    folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(word).lower(), folded, n=1, cutoff=cutoff)
    hint = f"did you mean {folded[found[0]]!r}?" if found else otherwise
    return f"{hint} {then}".strip()


def hint_at(word: object, known: Iterable[str]) -> str:
    """Ask the same in brackets, led by a blank, inside a sentence; empty where no name resembles the word."""
    hint = closest(word, known)
    return f" ({hint})" if hint else ""


def printable(text: str, *, keep: str = "\n\t") -> str:
    r"""Write control characters as ``\x1b``, so that text from files and paths cannot move a terminal's cursor.

    Args:
        text: to be shown.
        keep: those that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _INVISIBLE else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

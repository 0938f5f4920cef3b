"""Lines on stdout and stderr."""

from __future__ import annotations

import shlex
import warnings
from typing import Any

import click

from qkd_deploy.errors import QuantizationWarning, printable

_LONGEST = 2_000
"""Characters of a line of error: what was given may be as long as it likes."""


def echo(text: str, *, err: bool = False) -> None:
    """Print ``text`` on stdout, or stderr, with control characters made visible."""
    click.echo(printable(text), err=err)


def command_line() -> str:
    """Write what the user typed to run the present command, for the records of its results."""
    return shlex.join(["qkd-deploy", *(click.get_current_context().find_root().obj or ())])


def echo_line(text: str) -> None:
    """Print one line on stdout, whatever is in ``text``: names of a file cannot begin a line of their own."""
    click.echo(printable(text, keep=""))


def one_line(text: str) -> str:
    """Join the lines of a message, and leave out the middle of a very long one: what to do stands at its end."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 500]} ... {line[-500:]}"


def print_our_warnings() -> None:
    """Let a warning of ours be a line on stderr, and all others what Python makes of them."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, QuantizationWarning):
            echo(f"Warning: {one_line(str(message))}", err=True)
        else:
            usual(message, category, *rest)

    warnings.simplefilter("always", QuantizationWarning)
    warnings.showwarning = show  # type: ignore[assignment]

"""How every command ends: with its own exit code, or with one line on stderr and the code that tells why."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

import click

from qkd_deploy.cli.printing import echo, one_line
from qkd_deploy.errors import UserError

DEBUG = "QKD_DEBUG"
"""Environment variable: with "1", the traceback stands before the line."""


class Terminated(BaseException):
    """SIGTERM, on its way to the end of the program: open files are closed and locks released, as for Ctrl-C."""


def exit_code_of(error: BaseException) -> int:
    """Say in one line why a command broke off; returns its exit code.

    2: whatever the user can correct, and faults of the tool or of code that it was given; 130: interrupted by Ctrl-C;
    143: by SIGTERM.
    """
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    if isinstance(error, Terminated):
        echo("Terminated.", err=True)
        return 143
    if isinstance(error, (click.Abort, KeyboardInterrupt)) and not isinstance(error.__cause__, EOFError):
        echo("Interrupted.", err=True)
        return 130
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(error)
    echo(f"Error: {one_line(_reason(error))}", err=True)
    return 2


def _reason(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        _discard_stdout()
        where = f"{error.filename}: " if error.filename else "cannot read or write: "
        return f"{where}{error.strerror or error}; check the path and the space left"
    if isinstance(error, SystemExit):
        return f"code that was imported called exit({error.code!r}); let it return, or raise an exception"
    if isinstance(error, click.Abort) and error.__cause__ is not None:
        error = error.__cause__  # click takes the end of a file for the end of what somebody types
    text = str(error).strip().partition("\n")[0]
    kind = type(error).__name__
    return (
        f"{kind}{f': {text}' if text else ''}; this is a fault of qkd-deploy, or of code that it was given: "
        f"{DEBUG}=1 shows where, please report it"
    )


def _discard_stdout() -> None:
    """Let what could not be written go, or Python would try again at exit and report the same mistake itself."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

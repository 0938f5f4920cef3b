"""The one exception for mistakes that the user can correct."""

from __future__ import annotations


class UserError(Exception):
    """Bad usage or bad input: one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with code 2; library callers may catch it.
    """

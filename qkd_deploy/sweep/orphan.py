"""End a command whose sweep was killed: nobody waits for its result, and the next sweep wants its folder."""

from __future__ import annotations

import os
import signal
from threading import Thread

_STDIN = 0


def end_with_parent() -> None:
    """Send this process SIGTERM as soon as nobody holds the other end of its stdin, which is empty for all others."""
    parent, nothing = os.dup(_STDIN), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    Thread(target=_wait, args=(parent,), daemon=True).start()


def _wait(parent: int) -> None:
    while os.read(parent, 1):  # of the file itself: a reader of Python's would be waited for at the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)

"""End a command whose sweep was killed: nobody waits for its result, and the next sweep wants its folder."""

from __future__ import annotations

import os
import signal
from threading import Thread

_STDIN = 0


def end_with_parent() -> None:
    """Send this process SIGTERM as soon as nobody holds the other end of its stdin."""
    Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while os.read(_STDIN, 1):  # of the file itself: a reader of Python's would be waited for at the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)

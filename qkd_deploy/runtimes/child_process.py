"""A process of its own that answers questions: it may abort, hang or print what it likes.

The parent sends one line of JSON and arrays (``.npy``) on stdin, and gets the same back on a stdout that nothing else
can write to; ``serve`` is the other end.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np

from qkd_deploy.runtimes.runtime import RuntimeFault

_LAST_WORDS = 2000

Answer = tuple[dict[str, Any], list[np.ndarray]]
"""Words and arrays."""


class ChildProcess:
    """A Python module that runs and answers; use it in a ``with`` block."""

    def __init__(self, module: str, *arguments: str, title: str, seconds: float | None) -> None:
        """Start the process.

        Args:
            module: what ``python -m`` runs, with its arguments.
            arguments: of the module.
            title: what people call that which runs there.
            seconds: until an answer; None waits.
        """
        self._title, self._seconds = title, seconds
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, close_fds=True
        )

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._words.close()

    def asked(self, question: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> Answer:
        """Send a question; returns the answer and its arrays.

        Raises:
            RuntimeFault: the other side says so, takes too long, or is gone.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        alarm = None if self._seconds is None else threading.Timer(self._seconds, self._process.kill)
        if alarm is not None:
            alarm.start()
        try:
            _send(self._process.stdin, question, arrays)
            answer, given = _received(self._process.stdout)
        except (EOFError, OSError, ValueError) as error:
            raise RuntimeFault(self._end()) from error
        finally:
            if alarm is not None:
                alarm.cancel()
        if "fault" in answer:
            raise RuntimeFault(str(answer["fault"]))
        return answer, given

    def _end(self) -> str:
        """Why the process gives no answer."""
        code = self._process.wait()
        self._words.seek(0)
        lines = self._words.read()[-_LAST_WORDS:].decode(errors="replace").strip().splitlines()
        if code == -9:
            limit = "" if self._seconds is None else f"takes longer than {self._seconds:.0f} seconds, or "
            return f"{self._title} {limit}was killed"
        said = f": {lines[-1].strip()}" if lines else ""
        return f"{self._title} {f'aborts (signal {-code})' if code < 0 else f'ends with {code}'}{said}"


def serve(answer: Callable[[dict[str, Any], list[np.ndarray]], Answer]) -> int:
    """Answer questions until stdin ends; what ``answer`` raises is a fault, told by its first line."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a runtime prints
    while True:
        try:
            words, arrays = _received(sys.stdin.buffer)
        except EOFError:
            return 0
        try:
            reply, given = answer(words, arrays)
        except Exception as error:  # noqa: BLE001  # what runtimes raise has no common base
            line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            reply, given = {"fault": line}, []
        _send(answers, reply, given)


def _send(stream: IO[bytes], words: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """A line of JSON, and each array behind its length: NumPy itself cannot write to a pipe."""
    parts = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
        parts.append(buffer.getvalue())
    stream.write(json.dumps({**words, "arrays": [*map(len, parts)]}).encode() + b"\n")
    for part in parts:
        stream.write(part)
    stream.flush()


def _received(stream: IO[bytes]) -> Answer:
    line = stream.readline()
    if not line:
        raise EOFError
    words: dict[str, Any] = json.loads(line)
    return words, [np.load(io.BytesIO(stream.read(length)), allow_pickle=False) for length in words["arrays"]]

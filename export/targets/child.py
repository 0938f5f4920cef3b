"""A target's runtime in a process of its own: it may abort, hang or print what it likes.

The parent sends one line of JSON and arrays (``.npy``) on stdin, and gets the same back on a stdout that nothing else
can write to. ``python -m qkd_deploy.export.targets.child NAME FILE THREADS`` is the other end.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from qkd_deploy.export.targets.registry import require_installed, target_named
from qkd_deploy.export.targets.target import Target, TargetKernel, TargetSession
from qkd_deploy.runtimes.runtime import RuntimeFault

SECONDS = 600.0
"""Until one answer of the runtime."""
_LAST_WORDS = 2000


class TargetProcess:
    """A file that its runtime has loaded in a process of its own; use it in a ``with`` block.

    Attributes:
        version: of the runtime.
    """

    def __init__(self, target: Target, path: Path, threads: int = 1, *, seconds: float = SECONDS) -> None:
        """Start the process.

        Raises:
            UserError: the runtime is not installed.
            RuntimeFault: it cannot load the file.
        """
        require_installed(target)
        self._title, self._seconds = target.title, seconds
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        command = [sys.executable, "-m", "qkd_deploy.export.targets.child", target.name, str(path), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, close_fds=True
        )
        try:
            self.version = str(self._asked({"do": "version"})[0]["version"])
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> TargetProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._words.close()

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs of any number of samples.

        Raises:
            RuntimeFault: the runtime refuses them, takes too long, or is gone.
        """
        return self._asked({"do": "run"}, inputs)[1]

    def seconds(self, inputs: Sequence[np.ndarray], runs: int) -> float:
        """Seconds of one run, as the mean over so many.

        Raises:
            RuntimeFault: as ``run``.
        """
        return float(self._asked({"do": "time", "runs": runs}, inputs)[0]["seconds"])

    def kernels(self) -> list[TargetKernel]:
        """What runs; empty where the runtime does not say.

        Raises:
            RuntimeFault: as ``run``.
        """
        return [TargetKernel(**kernel) for kernel in self._asked({"do": "kernels"})[0]["kernels"]]

    def _asked(self, question: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> tuple[dict[str, Any], list[Any]]:
        """Send a question; returns the answer and its arrays."""
        assert self._process.stdin is not None and self._process.stdout is not None
        alarm = threading.Timer(self._seconds, self._process.kill)
        alarm.start()
        try:
            _send(self._process.stdin, question, arrays)
            answer, given = _received(self._process.stdout)
        except (EOFError, OSError, ValueError) as error:
            raise RuntimeFault(self._end()) from error
        finally:
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
            return f"{self._title} takes longer than {self._seconds:.0f} seconds, or was killed"
        said = f": {lines[-1].strip()}" if lines else ""
        return f"{self._title} {f'aborts (signal {-code})' if code < 0 else f'ends with {code}'}{said}"


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


def _received(stream: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    line = stream.readline()
    if not line:
        raise EOFError
    words: dict[str, Any] = json.loads(line)
    return words, [np.load(io.BytesIO(stream.read(length)), allow_pickle=False) for length in words["arrays"]]


def in_batches(session: TargetSession, batch: int | None, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run samples in batches of a fixed size, of which the last is filled up with copies of its last sample."""
    if batch is None:
        return session.run(inputs)
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(inputs[0]), batch):
        chunk = [array[start : start + batch] for array in inputs]
        missing = batch - len(chunk[0])
        filled = [np.concatenate([array, *[array[-1:]] * missing]) if missing else array for array in chunk]
        parts.append([output[: len(chunk[0])] for output in session.run(filled)])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _answer(session: TargetSession, batch: int | None, words: dict[str, Any], arrays: list[np.ndarray]) -> Any:
    if words["do"] == "run":
        return {}, in_batches(session, batch, arrays)
    if words["do"] == "kernels":
        return {"kernels": [vars(kernel) for kernel in session.kernels()]}, []
    if words["do"] == "time":
        started = time.perf_counter()
        for _ in range(words["runs"]):
            in_batches(session, batch, arrays)
        return {"seconds": (time.perf_counter() - started) / words["runs"]}, []
    return {"version": session.version}, []


def main(name: str, file: str, threads: str) -> int:
    """Load the file and answer questions until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a runtime prints
    target, session = target_named(name), None
    while True:
        try:
            words, arrays = _received(sys.stdin.buffer)
        except EOFError:
            return 0
        try:
            session = session or target.load(Path(file), int(threads))
            reply, given = _answer(session, target.batch, words, arrays)
        except Exception as error:  # noqa: BLE001  # what runtimes raise has no common base
            line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            reply, given = {"fault": line}, []
        _send(answers, reply, given)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

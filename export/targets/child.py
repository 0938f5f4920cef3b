"""A target's runtime in a process of its own: it may abort, hang or print what it likes.

``python -m qkd_deploy.export.targets.child NAME FILE THREADS`` is the other end.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qkd_deploy.export.targets.registry import require_installed, target_named
from qkd_deploy.export.targets.target import Target, TargetKernel, TargetSession
from qkd_deploy.runtimes.child_process import Answer, ChildProcess, serve

SECONDS = 600.0
"""Until one answer of the runtime."""


class TargetProcess(ChildProcess):
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
        super().__init__(__name__, target.name, str(path), str(threads), title=target.title, seconds=seconds)
        try:
            self.version = str(self.asked({"do": "version"})[0]["version"])
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> TargetProcess:
        return self

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs of any number of samples.

        Raises:
            RuntimeFault: the runtime refuses them, takes too long, or is gone.
        """
        return self.asked({"do": "run"}, inputs)[1]

    def kernels(self) -> list[TargetKernel]:
        """What runs; empty where the runtime does not say.

        Raises:
            RuntimeFault: as ``run``.
        """
        return [TargetKernel(**kernel) for kernel in self.asked({"do": "kernels"})[0]["kernels"]]


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


def main(name: str, file: str, threads: str) -> int:
    """Load the file at the first question, and answer until stdin ends."""
    target, loaded = target_named(name), list[TargetSession]()

    def answer(words: dict[str, Any], arrays: list[np.ndarray]) -> Answer:
        if not loaded:
            loaded.append(target.load(Path(file), int(threads)))
        session = loaded[0]
        if words["do"] == "run":
            return {}, in_batches(session, target.batch, arrays)
        if words["do"] == "kernels":
            return {"kernels": [vars(kernel) for kernel in session.kernels()]}, []
        return {"version": session.version}, []

    return serve(answer)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Models in a process of their own, to be timed: pinned to CPUs, each loaded by its runtime.

``python -m qkd_deploy.bench.child CPUS`` answers the questions of ``Stopwatch``.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qkd_deploy.bench.pinning import keep_to
from qkd_deploy.bench.timing import single_runs
from qkd_deploy.export.settings import ORT
from qkd_deploy.export.targets.child import in_batches
from qkd_deploy.export.targets.registry import target_named
from qkd_deploy.export.targets.target import TargetKernel, TargetSession, TimesNodes
from qkd_deploy.runtimes.child_process import Answer, ChildProcess, serve
from qkd_deploy.runtimes.limited_run import peak_resident
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.profile import NodeTime, node_times
from qkd_deploy.runtimes.runtime import RuntimeFault

_LOADS = 3
_LONG_LOAD = 1.0
"""Seconds from which loading is measured once."""
_PROFILED_SECONDS = 0.5


@dataclass(frozen=True)
class Loaded:
    """Seconds (median) and bytes (None where not known) that loading a model took, with a first run for the bytes."""

    version: str
    seconds: float
    peak_memory: int | None


class Stopwatch(ChildProcess):
    """A process that times models; use it in a ``with`` block."""

    def __init__(self, title: str, cpus: tuple[int, ...], seconds: float | None) -> None:
        """Start the process; its runtimes keep to ``cpus``, and have ``seconds`` for an answer."""
        super().__init__(__name__, ",".join(map(str, cpus)), title=title, seconds=seconds)

    def __enter__(self) -> Stopwatch:
        return self

    def load(self, name: str, runtime: str, file: Path, threads: int, inputs: Sequence[np.ndarray]) -> Loaded:
        """Load a file, and run it once.

        Args:
            name: what it is called from now on.
            runtime: a target.
            file: the file.
            threads: of the runtime.
            inputs: one batch, in the model's order, for all runs.

        Raises:
            RuntimeFault: the runtime cannot load or run it.
        """
        question = {"do": "load", "name": name, "runtime": runtime, "file": str(file), "threads": threads}
        return Loaded(**self.asked(question, inputs)[0]["loaded"])

    def times(self, name: str, runs: int) -> np.ndarray:
        """Seconds of each of so many runs, after an untimed one, by two clocks as ``single_runs`` gives them.

        Raises:
            RuntimeFault: the runtime fails.
        """
        return self.asked({"do": "time", "name": name, "runs": runs})[1][0]

    def profile(self, name: str) -> tuple[list[NodeTime], list[TargetKernel]]:
        """Seconds of each node, and the kernels of a target's runtime; empty where the runtime does not say.

        Raises:
            RuntimeFault: the runtime fails.
        """
        told = self.asked({"do": "profile", "name": name})[0]
        return [NodeTime(**node) for node in told["nodes"]], [TargetKernel(**kernel) for kernel in told["kernels"]]


class _OnnxFile:
    """A model in ONNX Runtime, as a session of a target."""

    def __init__(self, path: Path, threads: int) -> None:
        self.version = OnnxRuntime.version
        self._path, self._threads = path, threads
        try:
            self._session = OnnxRuntime().session(path, threads)
        except RuntimeFault as error:
            raise RuntimeFault(error.last_line) from error
        self._names = [value.name for value in self._session.inputs]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return [*self._session.run(self._feeds(inputs)).values()]
        except RuntimeFault as error:
            raise RuntimeFault(error.last_line) from error

    def node_times(self, inputs: Sequence[np.ndarray], seconds: float) -> tuple[NodeTime, ...]:
        return node_times(self._path.read_bytes(), self._feeds(inputs), seconds=seconds, threads=self._threads)

    def kernels(self) -> list[TargetKernel]:
        return []  # the parent knows them from the optimized graph

    def _feeds(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._names, inputs, strict=True))


class _Model:
    """A file in its runtime with one batch."""

    def __init__(self, runtime: str, file: Path, threads: int, inputs: list[np.ndarray]) -> None:
        self.inputs = inputs
        self._load: Callable[[], TargetSession] = partial(_OnnxFile, file, threads)
        self._batch: int | None = None
        if runtime != ORT:
            target = target_named(runtime)
            self._load, self._batch = partial(target.load, file, threads), target.batch
            for module in target.modules:  # importing it is no part of loading a file
                importlib.import_module(module)
        before = peak_resident()
        seconds = [self._loaded()]
        self.run()
        after = peak_resident()
        seconds += [self._loaded() for _ in range(_LOADS - 1) if seconds[0] < _LONG_LOAD]
        memory = None if before is None or after is None else after - before
        self.loaded = Loaded(self.session.version, float(np.median(seconds)), memory)

    def _loaded(self) -> float:
        """Load the file (again); returns the seconds."""
        started = time.perf_counter()
        self.session: TargetSession = self._load()
        return time.perf_counter() - started

    def profile(self) -> dict[str, Any]:
        """Nodes, and kernels where the runtime is a target's."""
        session, batch = self.session, len(self.inputs[0])
        if not isinstance(session, TimesNodes) or self._batch not in (None, batch):
            return {"nodes": [], "kernels": []}
        nodes = session.node_times(self.inputs, _PROFILED_SECONDS)
        return {"nodes": [*map(vars, nodes)], "kernels": [*map(vars, self.session.kernels())]}

    def run(self) -> None:
        in_batches(self.session, self._batch, self.inputs)


def main(cpus: str) -> int:
    """Answer the questions of a ``Stopwatch``."""
    keep_to(tuple(map(int, filter(None, cpus.split(",")))))
    models: dict[str, _Model] = {}

    def answer(words: dict[str, Any], arrays: list[np.ndarray]) -> Answer:
        name = words["name"]
        if words["do"] == "load":
            models[name] = _Model(words["runtime"], Path(words["file"]), words["threads"], arrays)
            return {"loaded": vars(models[name].loaded)}, []
        model = models[name]
        if words["do"] == "time":
            return {}, [single_runs(model.run)(words["runs"])]
        return model.profile(), []

    return serve(answer)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

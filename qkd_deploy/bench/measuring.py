"""Times files in turns, each in a process of its own, with what the machine can do in the same rounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from qkd_deploy.bench.child import Loaded, Stopwatch
from qkd_deploy.bench.contestants import Contestant, Terms, cannot_run
from qkd_deploy.bench.pinning import cpus_for
from qkd_deploy.bench.report import CROWDED, INTEGER
from qkd_deploy.bench.timing import Timer, in_turns
from qkd_deploy.bench.yardsticks import CHAIN, chain, inputs_of, product
from qkd_deploy.export.settings import ORT
from qkd_deploy.export.targets.child import SECONDS
from qkd_deploy.export.targets.target import TargetKernel
from qkd_deploy.runtimes.limited_run import noise_for
from qkd_deploy.runtimes.profile import NodeTime
from qkd_deploy.runtimes.runtime import RuntimeFault

WALL, _OWN = 0, 1
"""Clocks."""
PEAK, ONE, MANY = "int8 peak", "one operator", "many operators"


@dataclass(frozen=True)
class Taken:
    """Loads and bytes by file, seconds of runs by file or yardstick and round, nodes of the file.

    ``waited`` is the share of the time in which other processes had the CPU; None with several threads, whose own time
    tells nothing of it.
    """

    loads: Mapping[str, Loaded]
    sizes: Mapping[str, int]
    seconds: Mapping[str, list[np.ndarray]]
    nodes: list[NodeTime]
    kernels: list[TargetKernel]
    waited: float | None

    def walls(self, name: str) -> np.ndarray:
        """Seconds of a run, by round."""
        return self._medians(name, WALL)

    def fair(self, name: str) -> np.ndarray:
        """Seconds of a run to compare with others, by round: of the process, where others often had its CPU."""
        return self._medians(name, _OWN if (self.waited or 0.0) > CROWDED else WALL)

    def _medians(self, name: str, clock: int) -> np.ndarray:
        return np.array([float(np.median(values[clock])) for values in self.seconds[name]])


def measured(files: Mapping[str, Contestant], terms: Terms, rounds: int) -> Taken:
    """Time all files in turns, with the yardsticks, which run in the process of the first file."""
    cpus = cpus_for(terms.threads)
    loads: dict[str, Loaded] = {}
    timers: dict[str, Timer] = {}
    with ExitStack() as stack:
        for name, file in files.items():
            watch = stack.enter_context(Stopwatch(file.title, cpus, None if file.runtime == ORT else SECONDS))
            with _told(file):
                noise = [*noise_for(file.inputs, terms.batch, file.sizes).values()]
                loads[name] = watch.load(name, file.runtime, file.file, terms.threads, noise)
            timers[name] = _timer(watch, name, file)
            if name == INTEGER:
                own = watch
        for name, content in ((PEAK, product()), (ONE, chain(1)), (MANY, chain(1 + CHAIN))):
            yardstick = terms.folder / f"{name}.onnx"
            yardstick.write_bytes(content)
            own.load(name, ORT, yardstick, terms.threads, [inputs_of(content)])
            timers[name] = partial(own.times, name)
        seconds = in_turns(timers, rounds)
        with _told(files[INTEGER]):
            nodes, kernels = own.profile(INTEGER)
    return Taken(
        loads,
        {name: file.file.stat().st_size for name, file in files.items()},
        seconds,
        nodes,
        kernels,
        _waited(seconds, files, terms.threads),
    )


@contextmanager
def _told(file: Contestant) -> Iterator[None]:
    """Tell users which file a runtime fails on."""
    try:
        yield
    except RuntimeFault as error:
        raise cannot_run(file, error) from error


def _timer(watch: Stopwatch, name: str, file: Contestant) -> Timer:
    def timer(runs: int) -> np.ndarray:
        with _told(file):
            return watch.times(name, runs)

    return timer


def _waited(seconds: Mapping[str, list[np.ndarray]], files: Iterable[str], threads: int) -> float | None:
    """The share of the time of runs in which other processes had the CPU."""
    if threads != 1:
        return None
    wall, own = np.sum([values.sum(axis=1) for name in files for values in seconds[name]], axis=0)
    return max(0.0, 1.0 - float(own) / float(wall))

"""Fair timing of several models: in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

SAMPLE_SECONDS = 0.01

Timer = Callable[[int], Sequence[float]]
"""Runs something so many times after an untimed one, which brings its data back into the caches; seconds of each run,
or of one as their mean."""


def in_turns(timers: Mapping[str, Timer], rounds: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Seconds of single runs, by name and round.

    In every round each has its turn, in random order, for about 10 ms. Ratios of samples of the same round are the
    result to trust.
    """
    repeats = {name: max(1, round(SAMPLE_SECONDS / timer(1)[0])) for name, timer in timers.items()}
    order = random.Random(seed)  # a benchmark's order is no secret
    samples: dict[str, list[np.ndarray]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name in order.sample(list(timers), len(timers)):
            samples[name].append(np.array(timers[name](repeats[name])))
    return samples


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int, seed: int = 0, clock: Callable[[], float] = time.perf_counter
) -> dict[str, np.ndarray]:
    """Seconds per call of each function of this process, in turns as ``in_turns`` gives them, float64 [rounds].

    On a crowded machine, ``clock=time.process_time`` counts only the time in which this process ran.
    """
    samples = in_turns({name: _timer(run, clock) for name, run in runs.items()}, rounds, seed)
    return {name: np.array([float(values.mean()) for values in own]) for name, own in samples.items()}


def _timer(run: Callable[[], object], clock: Callable[[], float]) -> Timer:
    def timer(repeats: int) -> list[float]:
        run()
        started = clock()
        for _ in range(repeats):
            run()
        return [(clock() - started) / repeats]

    return timer


def single_runs(run: Callable[[], object]) -> Timer:
    """Time each run by itself, so that one which something interrupts does not count in the median."""

    def timer(repeats: int) -> list[float]:
        run()
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
        return taken

    return timer

"""Fair timing of several models: in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import numpy as np

SAMPLE_SECONDS = 0.01

Timer = Callable[[int], np.ndarray]
"""Runs something so many times after an untimed one, which brings its data back into the caches. Seconds of each run,
or of one as their mean, by one clock or several: [clocks, runs], of which the first clock is the wall's."""


def in_turns(timers: Mapping[str, Timer], rounds: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Seconds of single runs, by name and round, each [clocks, runs].

    In every round each has its turn, in random order, for about 10 ms. Ratios of samples of the same round are the
    result to trust.
    """
    repeats = {name: max(1, round(SAMPLE_SECONDS / float(timer(1)[0, 0]))) for name, timer in timers.items()}
    order = random.Random(seed)  # a benchmark's order is no secret
    samples: dict[str, list[np.ndarray]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name in order.sample(list(timers), len(timers)):
            samples[name].append(timers[name](repeats[name]))
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
    def timer(repeats: int) -> np.ndarray:
        run()
        started = clock()
        for _ in range(repeats):
            run()
        return np.array([[(clock() - started) / repeats]])

    return timer


def single_runs(run: Callable[[], object]) -> Timer:
    """Time each run by itself, by the wall's clock and by that of this process, which stops while others run."""

    def timer(repeats: int) -> np.ndarray:
        run()
        taken = np.empty((2, repeats))
        for place in range(repeats):
            own, started = time.process_time(), time.perf_counter()
            run()
            ended = time.perf_counter()
            taken[:, place] = ended - started, time.process_time() - own
        return taken

    return timer

"""Fair timing of several sessions: in turns, in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import numpy as np

SAMPLE_SECONDS = 0.01


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int, seed: int = 0, clock: Callable[[], float] = time.perf_counter
) -> dict[str, np.ndarray]:
    """Seconds per call of each function, float64 [rounds].

    In every round each function has its turn, in random order: one untimed call, which brings its data back into the
    caches, then as many timed ones as take about 10 ms. Ratios of samples of the same round are the result to trust.
    On a crowded machine, ``clock=time.process_time`` counts only the time in which this process ran.
    """
    repeats = {name: _repeats(run, clock) for name, run in runs.items()}
    order = random.Random(seed)  # a benchmark's order is no secret
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in order.sample(list(runs), len(runs)):
            run = runs[name]
            run()
            started = clock()
            for _ in range(repeats[name]):
                run()
            samples[name].append((clock() - started) / repeats[name])
    return {name: np.array(values) for name, values in samples.items()}


def _repeats(run: Callable[[], object], clock: Callable[[], float]) -> int:
    run()
    started = clock()
    run()
    return max(1, round(SAMPLE_SECONDS / (clock() - started)))

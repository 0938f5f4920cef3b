"""The interleaved timer."""

from __future__ import annotations

import time

import numpy as np

from qkd_deploy.bench.timing import interleaved


def test_ratios_of_known_durations() -> None:
    calls: list[str] = []

    def sleeper(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    samples = interleaved({"short": lambda: sleeper("short", 0.002), "long": lambda: sleeper("long", 0.02)}, rounds=5)
    assert samples["short"].shape == samples["long"].shape == (5,)
    assert 3 < np.median(samples["long"] / samples["short"]) < 15
    first_of_last_rounds = calls[-30:]
    assert {"short", "long"} == set(first_of_last_rounds)  # they take turns

"""What operators cost before they compute anything, which is all that counts in very small networks."""

from __future__ import annotations

from dataclasses import dataclass

SMALL_SECONDS = 1e-3
"""Of one image; in networks that take longer, operators' overhead is of no account."""
_MUCH = 1 / 3
"""Share of the time from which it is overhead that keeps integers from being faster."""


@dataclass(frozen=True)
class Overhead:
    """Of one run: its operators, and the seconds that so many take on tensors with hardly anything in them."""

    operators: int
    seconds: float

    def in_words(self, latency: float, batch: int = 1) -> str:
        """Say how much of the time of a run it is."""
        own, what = min(self.seconds, latency), "an image" if batch == 1 else "a run"
        return f"{latency * 1e3:.3f} ms {what}, of which {own * 1e3:.3f} ms is overhead of {self.operators} operators"

    def too_small(self, latency: float, fp32: float | None) -> bool:
        """Whether it is why integers (``latency`` seconds) gain nothing over the network in float."""
        return fp32 is not None and fp32 <= latency and self.seconds >= _MUCH * latency


TOO_SMALL = "the network is too small for integers to gain"

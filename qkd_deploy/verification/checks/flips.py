"""What a rounding that falls the other way behind a float operator may do to the outputs, measured on the file itself.

The last bits of a float operator's results depend on the CPU, so a value near the tie between two codes may get either,
and the layers behind it pass a whole step on. How much of it reaches the outputs depends on the scale of that code, on
weights, and on roundings that follow. Therefore the reference runs the same inputs again with these values moved by as
much as float32 may be off: what then changes, and where, is the bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qkd_deploy.export.metadata import GoldenOutput
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.reference.rounding import FLOAT_ERROR

_RUNS = 3
_MARGIN = 4.0
"""An output may differ by so many times as much as in these runs, and in so many times as many places."""
_FEW = 3


@dataclass(frozen=True)
class FlipBound:
    """The bound for the outputs of one batch.

    Attributes:
        outputs: of the reference, by name.
        moved: the same with moved values, one table a run.
    """

    outputs: Mapping[str, np.ndarray]
    moved: tuple[Mapping[str, np.ndarray], ...]

    def allows(self, name: str, found: np.ndarray, recorded: GoldenOutput, tolerance: float) -> bool:
        """Say if flips explain that ``found`` is not ``recorded``.

        Args:
            name: of the output.
            found: its values now.
            recorded: its values when the file was written, or some of them.
            tolerance: share of the largest value by which no difference counts.
        """
        values = recorded.values
        if found.shape != recorded.shape or not np.isfinite(values).all():
            return False
        least = tolerance * float(np.abs(values).max())
        runs = [np.abs(recorded.part_of(run[name] - self.outputs[name])) for run in self.moved]
        largest = max(float(run.max()) for run in runs)
        difference = np.abs(recorded.part_of(found) - values)
        if largest <= least or not float(difference.max()) <= _MARGIN * largest:
            return False
        changed = list(zip(*(list(_changed(run, least)) for run in runs), strict=True))
        return all(
            int(counts.max()) <= _MARGIN * max(int(own.max()) for own in of_runs) + _FEW
            for counts, of_runs in zip(_changed(difference, least), changed, strict=True)
        )


def _changed(difference: np.ndarray, least: float) -> Iterator[np.ndarray]:
    """For every dimension but the batch, how many elements differ at each of its indices.

    A changed constant shows in whole channels, a flipped code in all channels of a few places.
    """
    for dim in range(1, difference.ndim):
        others = tuple(other for other in range(difference.ndim) if other != dim)
        yield (difference > least).sum(axis=others)


def flip_bound(
    reference: ReferenceModel, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> FlipBound:
    """Measure the bound for one batch, whose outputs the reference has computed."""
    generators = (np.random.default_rng(seed) for seed in range(_RUNS))
    moved = tuple(reference.run(feeds, moved=(rng, FLOAT_ERROR)).outputs for rng in generators)
    return FlipBound(outputs, moved)

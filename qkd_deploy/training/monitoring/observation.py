"""What is seen of a network's quantized tensors after an epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qkd_deploy.training.monitoring.metrics import EpochRecord


@dataclass(frozen=True)
class TensorObservation:
    """One quantized tensor.

    Attributes:
        name: of an activation, its name in reports and in the exported file; of weights, ``MODULE.weight``.
        kind: what it is.
        bits: of its codes.
        lo: the smallest centered code.
        scale: the step size, in units of the tensor; the geometric mean where each channel has its own.
        movement: ``log(scale / scale_before)``, the relative movement since the last observation.
        counts: how often each centered code ``lo, lo + 1, ...`` occurs. Values that are not numbers have no code.
        below, above: share of the values whose nearest code lies below or above the grid.
        snr: signal-to-noise ratio in dB: the energy of the values by that of what rounding and clipping took; infinite
            where they took nothing, nan where there is no signal.
    """

    name: str
    kind: Literal["weight", "activation"]
    bits: int
    lo: int
    scale: float
    movement: float
    counts: tuple[int, ...]
    below: float
    above: float
    snr: float

    @property
    def clipped(self) -> float:
        """Share of the values that were clipped."""
        return self.below + self.above

    @property
    def levels_used(self) -> float:
        """Share of the codes that occur."""
        return sum(count > 0 for count in self.counts) / len(self.counts)


@dataclass(frozen=True)
class Observation:
    """All quantized tensors: the weights in execution order, then the activations."""

    tensors: tuple[TensorObservation, ...]

    def added_to(self, record: EpochRecord) -> EpochRecord:
        """The record of the epoch that was just finished, with what was observed after it."""
        return replace(
            record,
            steps={tensor.name: float(f"{tensor.scale:.6g}") for tensor in self.tensors},
            clipped={tensor.name: round(tensor.clipped, 6) for tensor in self.tensors},
            levels_used={tensor.name: round(tensor.levels_used, 6) for tensor in self.tensors},
        )

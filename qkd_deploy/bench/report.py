"""What a benchmark found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from qkd_deploy.verification.overhead import TOO_SMALL, Overhead

CROWDED = 0.03
"""Share of the time that other processes have the CPU from which ratios are those of the own time of processes."""
INTEGER, FP32, UNREPLACED = "integer", "fp32", "unreplaced"


@dataclass(frozen=True)
class Measurement:
    """One model.

    Attributes:
        runtime: its title and version.
        latency, latency_quartiles: seconds per batch: median and quartiles of the rounds.
        percentiles: 50, 90 and 99 of single runs, in seconds.
        throughput: images per second.
        load_seconds: median.
        peak_memory: bytes that loading and a run need; None where the system does not say.
        file_bytes: of the file.
        operations_per_second: two for each multiplication and addition; None where those could not be counted.
        peak_share: those, as a share of the machine's int8 peak.
    """

    runtime: str
    latency: float
    latency_quartiles: tuple[float, float]
    percentiles: dict[str, float]
    throughput: float
    load_seconds: float
    peak_memory: int | None
    file_bytes: int
    operations_per_second: float | None = None
    peak_share: float | None = None


@dataclass(frozen=True)
class Ratio:
    """The other model over the integer one: median and quartiles of the rounds for latency, else one number."""

    latency: float
    latency_quartiles: tuple[float, float]
    peak_memory: float | None
    file_bytes: float
    load_seconds: float


@dataclass(frozen=True)
class LayerTime:
    """A module of the user's: its kernels, seconds of a run under the profiler, and their share of all.

    ``integer`` tells whether it computes in integers; None where it only moves data.
    """

    module: str
    kernels: tuple[str, ...]
    integer: bool | None
    seconds: float
    share: float


@dataclass(frozen=True)
class BenchReport:
    """Measurements by name ("integer", and what it was compared with) and the ratios of the latter to the former.

    Attributes:
        cpus: that the runtimes kept to; empty where the system pins nothing.
        waited: share of the time in which other processes had the CPU; None with several threads. Beyond ``CROWDED``,
            ratios, shares and overhead are of the time in which the processes themselves ran.
        int8_peak: operations per second of a matrix product in ONNX Runtime's int8 kernel, in the same run.
        macs: multiplications and additions for one image; None where they could not be counted.
        overhead: what a run's operators cost before they compute anything; None in runtimes that do not tell operators.
        layers: slowest first; empty in runtimes that do not say.
        simulates: the device that the runtime simulates, whose times these are not; "" for one that computes itself.
    """

    path: str
    batch: int
    threads: int
    rounds: int
    onnxruntime: str
    models: dict[str, Measurement]
    ratios: dict[str, Ratio]
    cpus: tuple[int, ...]
    waited: float | None
    int8_peak: float
    macs: int | None
    overhead: Overhead | None
    layers: tuple[LayerTime, ...]
    simulates: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for machines; ``too_small`` is included."""
        return {**asdict(self), "too_small": self.too_small}

    @property
    def too_small(self) -> bool:
        """Whether operators' overhead is why integers gain nothing over the network in float."""
        fp32, latency = self.ratios.get(FP32), self.models[INTEGER].latency
        rival = None if fp32 is None else fp32.latency * latency
        return self.overhead is not None and self.overhead.too_small(latency, rival)

    def sentences(self) -> Iterator[str]:
        """Say what was found: ratios first, then how far the machine's peak is, and what operators cost."""
        own = self.models[INTEGER]
        if self.simulates:
            yield f"{own.runtime} simulates {self.simulates} here: no time, memory or ratio is the device's"
        for name, ratio in self.ratios.items():
            yield self._compared(name, ratio)
        if self.ratios and (self.waited or 0.0) > CROWDED:
            yield (
                f"other processes had the CPU for {100 * (self.waited or 0.0):.0f} % of the time: the ratios are those "
                "of the time in which each file really ran"
            )
        if own.operations_per_second is not None and own.peak_share is not None and not self.simulates:
            yield (
                f"{own.operations_per_second / 1e9:,.1f} GOPS, {100 * own.peak_share:.1f} % of the "
                f"{self.int8_peak / 1e9:,.0f} GOPS of this machine's int8 kernels on {self.threads} thread(s)"
            )
        if self.overhead is not None:
            told = self.overhead.in_words(own.latency, self.batch)
            yield f"{told}: {TOO_SMALL}" if self.too_small else told

    def _compared(self, name: str, ratio: Ratio) -> str:
        """How the file does against another model."""
        low, high = ratio.latency_quartiles
        theirs, ours = self.models[name].runtime, self.models[INTEGER].runtime
        where = "" if theirs == ours else f" in {theirs}"
        memory = "" if ratio.peak_memory is None else f", {1 / ratio.peak_memory:.2f}x the memory"
        return (
            f"against {name}{where}: {ratio.latency:.2f}x the speed (quartiles {low:.2f} .. {high:.2f}){memory}, "
            f"{1 / ratio.file_bytes:.2f}x the size, {1 / ratio.load_seconds:.2f}x the time to load"
        )

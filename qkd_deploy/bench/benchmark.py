"""Speed, memory and size of an exported file, by itself or against the same network in float."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qkd_deploy.bench.session import RUNTIME, load_session
from qkd_deploy.bench.timing import interleaved
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.gate.onnx_file import read_exported, read_onnx
from qkd_deploy.runtimes.limited_run import limited_run, noise_for
from qkd_deploy.runtimes.runtime import RuntimeFault

INTEGER, FP32, UNREPLACED = "integer", "fp32", "unreplaced"


@dataclass(frozen=True)
class Measurement:
    """One model: seconds per batch (median and quartiles), images per second, bytes of memory and of the file."""

    latency: float
    latency_quartiles: tuple[float, float]
    throughput: float
    peak_memory: int | None
    file_bytes: int


@dataclass(frozen=True)
class Ratio:
    """The other model over the integer one: median and quartiles of the rounds for latency, else one number."""

    latency: float
    latency_quartiles: tuple[float, float]
    peak_memory: float | None
    file_bytes: float


@dataclass(frozen=True)
class BenchReport:
    """Measurements by name ("integer", and what it was compared with) and the ratios of the latter to the former."""

    path: str
    batch: int
    threads: int
    rounds: int
    onnxruntime: str
    models: dict[str, Measurement]
    ratios: dict[str, Ratio]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for machines."""
        return asdict(self)


def bench(
    path: Path | str,
    *,
    against: str | None = None,
    rival: onnx.ModelProto | None = None,
    threads: int = 1,
    batch: int = 1,
    rounds: int = 100,
) -> BenchReport:
    """Measure an exported file in ONNX Runtime, all optimizations on.

    Args:
        path: the file.
        against: "fp32" compares with the same network in float, "unreplaced" with the one with its own activation
            functions, any other word with the ONNX file of that name; None measures the file alone.
        rival: what those two words mean, from ``Trained.build_float`` or ``Trained.build_unreplaced``.
        threads: of each session.
        batch: images per run.
        rounds: samples of about 10 ms for each model.

    Raises:
        UserError: a file cannot be used, a number is below 1, or ``against`` needs ``rival``.
    """
    for name, number in (("threads", threads), ("batch", batch), ("rounds", rounds)):
        if number < 1:
            raise UserError(f"{name} is {number}; give 1 or more")
    file = read_exported(path)
    sizes = read_metadata(file.model).open_sizes
    with _files(path, against, rival) as files:
        trusted = {*({INTEGER} if file.cost.easy else ()), FP32, UNREPLACED}
        memory = {name: _peak_memory(model, batch, threads, name in trusted, sizes) for name, model in files.items()}
        samples = _timed({**files, INTEGER: file.data}, threads, batch, rounds, sizes)
        models = {name: _measurement(model, samples[name], batch, memory[name]) for name, model in files.items()}
    ratios = {name: _ratio(models, samples, name) for name in files if name != INTEGER}
    return BenchReport(str(path), batch, threads, rounds, RUNTIME.version, models, ratios)


def median_latencies(
    model: bytes, fp32: onnx.ModelProto | None = None, rounds: int = 9, *, sizes: tuple[int, ...] = ()
) -> dict[str, float]:
    """Seconds per image of a model ("integer") and, where given, of the network in float ("fp32"), as medians.

    One thread, batch 1; ``model`` is the content of its file; ``sizes`` are those that it leaves open beside the batch.

    Raises:
        UserError: the file cannot be run.
    """
    models: dict[str, bytes | Path] = {INTEGER: model}
    if fp32 is not None:
        models[FP32] = fp32.SerializeToString()
    return {name: float(np.median(samples)) for name, samples in _timed(models, 1, 1, rounds, sizes).items()}


@contextmanager
def _files(path: Path | str, against: str | None, rival: onnx.ModelProto | None) -> Iterator[dict[str, Path]]:
    """The files to time, by name; that of ``rival`` exists for a while."""
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        files = {INTEGER: Path(path)}
        if against is not None:
            files[against] = _other_file(against, rival, Path(folder))
        yield files


def _other_file(against: str, rival: onnx.ModelProto | None, folder: Path) -> Path:
    """The file to compare with; ``rival`` is written into ``folder`` first."""
    if against not in (FP32, UNREPLACED):
        read_onnx(against)
        return Path(against)
    if rival is None:
        raise UserError(
            f"{against} is the network of the checkpoint that the file was exported from; give --checkpoint too"
        )
    file = folder / f"{against}.onnx"
    file.write_bytes(rival.SerializeToString())
    return file


def _timed(
    models: Mapping[str, bytes | Path], threads: int, batch: int, rounds: int, sizes: tuple[int, ...]
) -> dict[str, np.ndarray]:
    sessions = {name: load_session(model, threads) for name, model in models.items()}
    runs = {name: partial(loaded.run, noise_for(loaded, batch, sizes)) for name, loaded in sessions.items()}
    try:
        return interleaved(runs, rounds)
    except RuntimeFault as error:
        raise _failure("the model", error) from error


def _peak_memory(file: Path, batch: int, threads: int, trusted: bool, sizes: tuple[int, ...]) -> int | None:
    """Bytes that one batch needs; what nobody vouches for runs within limits, before it runs in this process.

    Raises:
        UserError: it takes too long or too much, or cannot be run at all.
    """
    try:
        if trusted:
            return limited_run(file, batch, threads, seconds=None, memory=0, sizes=sizes)
        return limited_run(file, batch, threads, sizes=sizes)
    except RuntimeFault as error:
        if trusted:  # it says why where it is timed
            return None
        raise _failure(file, error) from error


def _failure(model: Path | str, error: RuntimeFault) -> UserError:
    return UserError(f"{RUNTIME.name} cannot run {model}: {error.last_line}; try another --batch or file")


def _measurement(file: Path, samples: np.ndarray, batch: int, memory: int | None) -> Measurement:
    low, median, high = (float(value) for value in np.quantile(samples, [0.25, 0.5, 0.75]))
    return Measurement(median, (low, high), batch / median, memory, file.stat().st_size)


def _ratio(models: Mapping[str, Measurement], samples: Mapping[str, np.ndarray], other: str) -> Ratio:
    low, median, high = (float(v) for v in np.quantile(samples[other] / samples[INTEGER], [0.25, 0.5, 0.75]))
    theirs, ours = models[other], models[INTEGER]
    memory = theirs.peak_memory / ours.peak_memory if theirs.peak_memory and ours.peak_memory else None
    return Ratio(median, (low, high), memory, theirs.file_bytes / ours.file_bytes)

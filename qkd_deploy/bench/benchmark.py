"""Speed, memory and size of an exported file, by itself or against the same network in float."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from qkd_deploy.bench.float_twin import float_twin
from qkd_deploy.bench.peak_memory import peak_memory
from qkd_deploy.bench.timing import interleaved
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.verification.load import load_model
from qkd_deploy.verification.runtime import session_options

AGAINST = ("fp32",)
INTEGER = "integer"


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
    path: Path | str, *, against: str | None = None, threads: int = 1, batch: int = 1, rounds: int = 100
) -> BenchReport:
    """Measure an exported file in ONNX Runtime, all optimizations on.

    Args:
        path: the file.
        against: "fp32" compares with its ``float_twin``; None measures the file alone.
        threads: of each session.
        batch: images per run.
        rounds: samples of about 10 ms for each model.

    Raises:
        UserError: the file cannot be used, or a number is below 1.
    """
    for name, number in (("threads", threads), ("batch", batch), ("rounds", rounds)):
        if number < 1:
            raise UserError(f"{name} is {number}; give 1 or more")
    if against is not None and against not in AGAINST:
        raise UserError(f"cannot compare with {against!r}; choose {', '.join(AGAINST)}")
    model = load_model(path)
    read_metadata(model)
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        files = {INTEGER: Path(path)}
        if against is not None:
            files[against] = _write_twin(model, Path(folder))
        samples = _timed(files, threads, batch, rounds)
        models = {name: _measurement(file, samples[name], threads, batch) for name, file in files.items()}
    ratios = {name: _ratio(models, samples, name) for name in files if name != INTEGER}
    return BenchReport(str(path), batch, threads, rounds, onnxruntime.__version__, models, ratios)


def median_latencies(path: Path | str, rounds: int = 9) -> dict[str, float]:
    """Seconds per image of a file ("integer") and of its float twin ("fp32"): one thread, batch 1, medians.

    Raises:
        UserError: the file cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        files = {INTEGER: Path(path), "fp32": _write_twin(load_model(path), Path(folder))}
        return {name: float(np.median(samples)) for name, samples in _timed(files, 1, 1, rounds).items()}


def _write_twin(model: onnx.ModelProto, folder: Path) -> Path:
    file = folder / "float.onnx"
    file.write_bytes(float_twin(model).SerializeToString())
    return file


def session(path: Path | str, threads: int) -> onnxruntime.InferenceSession:
    """A CPU session with all optimizations; idle threads sleep, so that models timed in turns stay undisturbed.

    Raises:
        UserError: ONNX Runtime cannot load the file.
    """
    try:
        return onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {reason}") from error


def feeds_for(loaded: onnxruntime.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    """Seeded noise for every input; dimensions without a fixed size take ``batch``."""
    generator = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    for value in loaded.get_inputs():
        shape = [size if isinstance(size, int) else batch for size in value.shape]
        pixels = generator.integers(0, 256, shape)
        is_uint8 = value.type == "tensor(uint8)"
        feeds[value.name] = pixels.astype(np.uint8) if is_uint8 else ((pixels - 128) / 64).astype(np.float32)
    return feeds


def _timed(files: Mapping[str, Path], threads: int, batch: int, rounds: int) -> dict[str, np.ndarray]:
    sessions = {name: session(file, threads) for name, file in files.items()}
    runs = {name: partial(loaded.run, None, feeds_for(loaded, batch)) for name, loaded in sessions.items()}
    try:
        return interleaved(runs, rounds)
    except Exception as error:  # onnxruntime's errors have no public common base
        raise UserError(f"ONNX Runtime cannot run the model on {batch} images: {error}; try another --batch") from error


def _measurement(file: Path, samples: np.ndarray, threads: int, batch: int) -> Measurement:
    low, median, high = (float(value) for value in np.quantile(samples, [0.25, 0.5, 0.75]))
    memory = peak_memory(file, batch, threads)
    return Measurement(median, (low, high), batch / median, memory, file.stat().st_size)


def _ratio(models: Mapping[str, Measurement], samples: Mapping[str, np.ndarray], other: str) -> Ratio:
    low, median, high = (float(v) for v in np.quantile(samples[other] / samples[INTEGER], [0.25, 0.5, 0.75]))
    theirs, ours = models[other], models[INTEGER]
    memory = theirs.peak_memory / ours.peak_memory if theirs.peak_memory and ours.peak_memory else None
    return Ratio(median, (low, high), memory, theirs.file_bytes / ours.file_bytes)

"""Speed, memory and size of an exported file in its runtime, by itself or against other files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from qkd_deploy.bench.contestants import Contestant, Terms, float_file, measured_file, other_file
from qkd_deploy.bench.layers import KernelTime, described, described_by_runtime, layer_times
from qkd_deploy.bench.measuring import MANY, ONE, PEAK, WALL, Taken, measured
from qkd_deploy.bench.pinning import cpus_for
from qkd_deploy.bench.report import FP32, INTEGER, UNREPLACED, BenchReport, Measurement, Ratio
from qkd_deploy.bench.yardsticks import PEAK_MACS, overhead_of
from qkd_deploy.errors import UserError
from qkd_deploy.export.settings import ORT
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.verification.overhead import Overhead


def bench(
    path: Path | str,
    *,
    against: str | None = None,
    rival: onnx.ModelProto | None = None,
    runtime: str | None = None,
    threads: int = 1,
    batch: int = 1,
    rounds: int = 100,
) -> BenchReport:
    """Measure an exported file in its runtime; each file runs in a process of its own, all on the same CPUs, in turns.

    Args:
        path: the file, for any target.
        against: "fp32" compares with the same network in float, "unreplaced" with the one with its own activation
            functions, any other word with the file of that name, for any target; None measures the file alone.
        rival: what those two words mean, from ``Trained.build_float`` or ``Trained.build_unreplaced``.
        runtime: the target whose runtime computes ONNX files; None takes ONNX Runtime, or what the file is for.
        threads: of each runtime.
        batch: images per run.
        rounds: samples of about 10 ms for each model.

    Raises:
        UserError: a file cannot be used, a number is below 1, or ``against`` needs ``rival``.
    """
    for name, number in (("threads", threads), ("batch", batch), ("rounds", rounds)):
        if number < 1:
            raise UserError(f"{name} is {number}; give 1 or more")
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        terms = Terms(batch, threads, Path(folder))
        files = {INTEGER: measured_file(Path(path), runtime, terms)}
        if against is not None:
            files[against] = _other(against, rival, files[INTEGER], terms)
        taken = measured(files, terms, rounds)
    macs = next((macs for macs in (file.macs for file in files.values()) if macs is not None), None)
    models = {name: _measurement(file, taken, name, batch) for name, file in files.items()}
    models[INTEGER] = _with_share(models[INTEGER], taken, macs, batch)
    return BenchReport(
        path=str(path),
        batch=batch,
        threads=threads,
        rounds=rounds,
        onnxruntime=OnnxRuntime.version,
        models=models,
        ratios={name: _ratio(models, taken, name) for name in files if name != INTEGER},
        cpus=cpus_for(threads),
        waited=taken.waited,
        int8_peak=2 * PEAK_MACS / float(np.median(taken.fair(PEAK))),
        macs=macs,
        overhead=_overhead(files[INTEGER], taken),
        layers=layer_times(_kernels(files[INTEGER], taken)),
        simulates=files[INTEGER].simulates,
    )


def _other(against: str, rival: onnx.ModelProto | None, own: Contestant, terms: Terms) -> Contestant:
    """The file to compare with."""
    if against not in (FP32, UNREPLACED):
        return other_file(Path(against), own.runtime, own.sizes, terms)
    if rival is None:
        raise UserError(
            f"{against} is the network of the checkpoint that the file was exported from; give --checkpoint too"
        )
    return float_file(rival, against, own.runtime, own.sizes, terms)


def _measurement(file: Contestant, taken: Taken, name: str, batch: int) -> Measurement:
    low, median, high = (float(value) for value in np.quantile(taken.walls(name), [0.25, 0.5, 0.75]))
    single, loaded = np.concatenate([values[WALL] for values in taken.seconds[name]]), taken.loads[name]
    return Measurement(
        runtime=f"{file.title} {loaded.version}",
        latency=median,
        latency_quartiles=(low, high),
        percentiles={str(percent): float(np.percentile(single, percent)) for percent in (50, 90, 99)},
        throughput=batch / median,
        load_seconds=loaded.seconds,
        peak_memory=loaded.peak_memory,
        file_bytes=taken.sizes[name],
    )


def _with_share(found: Measurement, taken: Taken, macs: int | None, batch: int) -> Measurement:
    """The measurement with the share of the machine's int8 peak, round by round."""
    if macs is None:
        return found
    shares = (macs * batch / taken.fair(INTEGER)) / (PEAK_MACS / taken.fair(PEAK))
    return replace(
        found,
        operations_per_second=2 * macs * batch / float(np.median(taken.fair(INTEGER))),
        peak_share=float(np.median(shares)),
    )


def _kernels(file: Contestant, taken: Taken) -> Sequence[KernelTime]:
    """The nodes of the file, described by its model or by what its runtime says."""
    if file.runtime == ORT:
        return () if file.model is None else described(file.model, taken.nodes)
    return described_by_runtime(taken.kernels, taken.nodes, file.metadata)


def _overhead(file: Contestant, taken: Taken) -> Overhead | None:
    """What the operators of the file cost in this run; None in another runtime than that of the yardsticks."""
    count = len(taken.nodes) if file.title.startswith(OnnxRuntime.name) else 0
    return Overhead(count, overhead_of(count, taken.fair(ONE), taken.fair(MANY))) if count else None


def _ratio(models: Mapping[str, Measurement], taken: Taken, other: str) -> Ratio:
    rounds = taken.fair(other) / taken.fair(INTEGER)
    low, median, high = (float(v) for v in np.quantile(rounds, [0.25, 0.5, 0.75]))
    theirs, ours = models[other], models[INTEGER]
    memory = theirs.peak_memory / ours.peak_memory if theirs.peak_memory and ours.peak_memory else None
    return Ratio(
        median,
        (low, high),
        memory,
        theirs.file_bytes / ours.file_bytes,
        theirs.load_seconds / ours.load_seconds,
    )

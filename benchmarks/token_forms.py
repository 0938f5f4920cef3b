"""A linear layer on tokens as a convolution, and on a matrix as a product: microseconds in ONNX Runtime.

    python benchmarks/token_forms.py --tokens 197 --features 192:576,192:192,192:768

For each pair of widths, layers from the first to the second and back, six times, with 8-bit codes. Exported for tokens
``[1, T, C]`` they are QLinearConv, for a matrix ``[T, C]`` QGemm; both compute the same sums. The two are timed in
turns on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qkd_deploy import export_onnx, initialize, prepare
from qkd_deploy.bench.timing import interleaved
from qkd_deploy.runtimes.ort import session_options

_PAIRS = 6


def session(network: nn.Module, x: Tensor, path: Path) -> ort.InferenceSession:
    """The exported network."""
    prepared = prepare(network, "w8a8", x)
    initialize(prepared, x)
    export_onnx(prepared.eval(), path)
    return ort.InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])


def layers(narrow: int, wide: int) -> nn.Module:
    """There and back, ``_PAIRS`` times."""
    pair = (narrow, wide), (wide, narrow)
    return nn.Sequential(*(m for _ in range(_PAIRS) for sizes in pair for m in (nn.Linear(*sizes), nn.ReLU()))).eval()


def measure(narrow: int, wide: int, tokens: int, rounds: int) -> dict[str, float]:
    """Microseconds per layer of both forms."""
    torch.manual_seed(0)
    network, x = layers(narrow, wide), torch.randn(1, tokens, narrow)
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"QLinearConv": x, "QGemm": x[0]}
        sessions = {form: session(network, value, Path(folder) / f"{form}.onnx") for form, value in inputs.items()}
        runs = {
            form: partial(made.run, None, {made.get_inputs()[0].name: inputs[form].numpy()})
            for form, made in sessions.items()
        }
        samples = interleaved(runs, rounds)
    return {form: float(np.median(values)) * 1e6 / (2 * _PAIRS) for form, values in samples.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--features", default="192:576,192:192,192:768", help="pairs of widths")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("features", "QGemm", "QLinearConv", title=f"{options.tokens} tokens, microseconds per layer")
    for pair in options.features.split(","):
        narrow, wide = map(int, pair.split(":"))
        found = measure(narrow, wide, options.tokens, options.rounds)
        table.add_row(f"{narrow} and {wide}", f"{found['QGemm']:.0f}", f"{found['QLinearConv']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()

"""Time and memory of one training step against full precision and other quantization-aware trainers.

    python benchmarks/train_step.py --json results.json

A step is forward, backward and optimizer on one batch: ResNet-20 on 32x32 images, W4A4, integer placement,
``channels_last``, on a CPU or with ``--device cuda`` on a GPU. All networks are timed in one process, in turns and in
random order, so that a busy machine slows all of them alike. The result is the median over the rounds of the ratio to
full precision (eager) in the same round. Everyone gets the same batch and the same SGD; our steps also have their own
optimizer (RelativeAdam).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from training_peers import BITS, brevitas_version, networks

from qkd_deploy.atomic import atomic_write
from qkd_deploy.training.loop.compiled import compile_network
from qkd_deploy.training.loop.optimizers import NetworkOptimizer, OptimizerSettings

_BASE = "fp32"
_COMPILED = ("fp32", "qkd_deploy")
_LABELS = {"qkd_deploy": "qkd_deploy_eager"}


class Step:
    """One network and its optimizer; a call is one training step."""

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, *, compiled: bool = False) -> None:
        self.forward: Callable[[Tensor], Tensor] = compile_network(network) if compiled else network
        self.images, self.labels = images, labels
        self.optimizer = NetworkOptimizer(network, OptimizerSettings(learning_rate=1e-3, weight_decay=1e-4))

    def loss(self) -> Tensor:
        """The forward pass."""
        return nn.functional.cross_entropy(self.forward(self.images), self.labels)

    def __call__(self) -> None:
        """Forward, backward and optimizer."""
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def saved_bytes(step: Step) -> int:
    """Bytes that autograd keeps between forward and backward, every storage counted once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.loss()
    del loss
    return sum(storage.nbytes() for storage in kept.values())


def timed(steps: dict[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every step, float64 [rounds]; in every round each has one turn, in random order."""
    order = random.Random(0)  # a benchmark's order is no secret
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name in order.sample(list(steps), len(steps)):
            started = time.perf_counter()
            steps[name]()
            if steps[name].images.is_cuda:
                torch.cuda.synchronize()
            samples[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in samples.items()}


def measure(model: str, batch: int, rounds: int, compiled: tuple[str, ...], device: str) -> list[dict[str, Any]]:
    """All rows, as plain data."""
    torch.manual_seed(0)
    pixels = torch.randint(256, (batch, 3, 32, 32))
    images = ((pixels - 128) / 64).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    made, copies = networks(model, images), networks(model, images) if compiled else {}
    images, labels = images.to(device), labels.to(device)
    for network in (*made.values(), *copies.values()):
        network.to(device)
    steps = {_LABELS.get(name, name): Step(network, images, labels) for name, network in made.items()}
    saved = {name: saved_bytes(step) for name, step in steps.items()}
    steps |= {f"{name}_compiled": Step(copies[name], images, labels, compiled=True) for name in compiled}
    for step in steps.values():
        for _ in range(2):
            step()
    samples = timed(steps, rounds)
    return [_row(name, samples[name], samples[_BASE], saved.get(name), saved[_BASE]) for name in steps]


def _row(name: str, seconds: np.ndarray, base: np.ndarray, saved: int | None, base_saved: int) -> dict[str, Any]:
    low, median, high = np.quantile(seconds / base, [0.25, 0.5, 0.75])
    row = {"name": name, "ratio_to_fp32": median, "quartile_1": low, "quartile_3": high}
    row = {key: value if isinstance(value, str) else round(float(value), 4) for key, value in row.items()}
    row["seconds"] = round(float(np.median(seconds)), 4)
    if saved is not None:  # compiled graphs save what their partitioner likes; measured in eager mode only
        row |= {"saved_bytes": saved, "saved_ratio_to_fp32": round(saved / base_saved, 4)}
    return row


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """The results for people, fastest first."""
    view = Table(title=title)
    for column in ("network", "time / fp32", "quartiles", "s per step", "memory / fp32"):
        view.add_column(column, justify="left" if column == "network" else "right")
    for row in sorted(rows, key=lambda row: row["ratio_to_fp32"]):
        memory = row.get("saved_ratio_to_fp32")
        view.add_row(
            row["name"],
            f"{row['ratio_to_fp32']:.2f}",
            f"{row['quartile_1']:.2f}-{row['quartile_3']:.2f}",
            f"{row['seconds']:.3f}",
            f"{memory:.2f}" if memory else "-",
        )
    return view


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="a ResNet for small images")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of every network")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--json", type=Path, help="write the results, with their provenance, to this file")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled networks out")
    options = parser.parse_args()
    if min(options.threads, options.rounds, options.batch) < 1:
        parser.error("--threads, --rounds and --batch must be 1 or more")
    return options


def main() -> int:
    """Run the benchmark."""
    options = arguments()
    torch.set_num_threads(options.threads)
    compiled = () if options.no_compile else _COMPILED
    rows = measure(options.model, options.batch, options.rounds, compiled, options.device)
    settings = {name: getattr(options, name) for name in ("model", "device", "threads", "rounds", "batch")}
    settings |= {"bits": BITS, "placement": "integer", "memory_format": "channels_last", "brevitas": brevitas_version()}
    record = {"provenance": provenance(), "settings": settings, "results": rows}
    where = f"{options.threads} thread(s)" if options.device == "cpu" else torch.cuda.get_device_name()
    Console(width=110).print(table(rows, f"{options.model}, batch {options.batch}, {where}"))
    if options.json is not None:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

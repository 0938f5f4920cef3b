"""Share of a training step that the input pipeline costs: shuffled, cropped, flipped and normalised CIFAR images.

    python benchmarks/input_pipeline.py --dataset cifar10 --data-dir DATA --threads 1,2 --json results.json

A batch of images and a full-precision training step of the network are timed in turns, so that a busy machine slows
both alike. The share is the time of 16 batches over that of all 16 turns, as the median over the rounds. Eager
quantized steps take longer, so that their share is smaller.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qkd_deploy.atomic import atomic_write
from qkd_deploy.data import Split, Transform, batches, load_dataset
from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model

_TOGETHER = 16
"""Batches of small images are made that many at a time on accelerators (``qkd_deploy.data.loader``)."""


def endless(split: Split, batch: int, augmentation: Transform) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after the other, as training sees them; a small last one is left out."""
    generator = torch.Generator().manual_seed(0)
    for _ in repeat(None):
        for images, labels in batches(split, batch, generator, augmentation):
            if len(images) == batch:
                yield images, labels


def training_step(network: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """Forward, backward and optimizer."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(network: nn.Module, stream: Iterator[tuple[Tensor, Tensor]], device: torch.device, rounds: int) -> Any:
    """Seconds of batches and of steps, [rounds, 2], each the sum over `_TOGETHER` of them."""
    step = training_step(network.to(device).train())
    seconds = []
    for _ in range(rounds + 1):
        times = [_now(device)]
        for _ in range(_TOGETHER):
            images, labels = next(stream)
            times.append(_now(device))
            step(images, labels)
            times.append(_now(device))
        seconds.append(np.diff(times).reshape(_TOGETHER, 2).sum(axis=0))
    return np.array(seconds[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def row(threads: int, augmentation: str, seconds: Any) -> dict[str, Any]:
    """One result, as plain data."""
    low, median, high = np.quantile(seconds[:, 0] / seconds.sum(axis=1), [0.25, 0.5, 0.75])
    return {
        "threads": threads,
        "augmentation": augmentation,
        "batch_ms": float(np.median(seconds[:, 0])) * 1e3 / _TOGETHER,
        "step_ms": float(np.median(seconds[:, 1])) * 1e3 / _TOGETHER,
        "share_percent": {"median": 100 * median, "quartile_1": 100 * low, "quartile_3": 100 * high},
    }


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """The results for people."""
    view = Table(title=title)
    for column in ("threads", "augmentation", "batch ms", "step ms", "share %"):
        view.add_column(column, justify="right")
    for result in rows:
        times = (f"{result[key]:.2f}" for key in ("batch_ms", "step_ms"))
        view.add_row(str(result["threads"]), result["augmentation"], *times, f"{result['share_percent']['median']:.2f}")
    return view


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10", help="any data set that fits into memory")
    parser.add_argument("--data-dir", type=Path, help="where its files lie")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--augmentations", default="auto", help="names, separated by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=4, help="of 16 batches each, after one to warm up")
    parser.add_argument("--json", type=Path, help="write the results, with their provenance, to this file")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; 2 on bad input, with one line that says why."""
    options = arguments()
    device, rows = torch.device(options.device), []
    try:
        data = load_dataset(options.dataset, options.data_dir).to(device)
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            for name in options.augmentations.split(","):
                stream = endless(data.train, options.batch, data.augmentation_named(name))
                network = create_model(options.model, len(data.classes), data.in_channels)
                rows.append(row(threads, name, measure(network, stream, device, options.rounds)))
        title = f"{data.known_as}, {options.model}, batch {options.batch}, {options.device}"
        Console(width=120).print(table(rows, title))
        if options.json is not None:
            settings = {"dataset": data.known_as, "model": options.model, "batch": options.batch}
            settings |= {"device": options.device, "rounds": options.rounds}
            record = {"provenance": provenance(), "settings": settings, "results": rows}
            with atomic_write(options.json) as temporary:
                temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except UserError as error:
        Console(stderr=True).print(f"error: {error}", soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

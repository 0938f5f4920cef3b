"""Accuracy of ordinary training loops, optimizer by optimizer, against parameter groups with RelativeAdam.

    python benchmarks/optimizers.py --json optimizers.json
    python benchmarks/optimizers.py --dataset cifar10 --data-dir D --model package.module:factory --init weights.pt \
        --normalization imagenet --images 2000 --epochs 2 --sgd 0.01 --adam 3e-4

Every loop is the one that everybody writes: one optimizer over ``student.parameters()``, cross entropy, a cosine. All
start from the same weights, trained in full precision in the same run or given, and see the same batches. The accuracy
is that of the frozen integer model on the held-out images.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

import qkd_deploy as qkd
from qkd_deploy.atomic import atomic_write
from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.data import ImageDataset, Split, batches, normalize
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.pixels.normalization import Normalization


def relative(student: Any, rate: float) -> list[Optimizer]:
    """The trainer's own: SGD for weights, RelativeAdam for steps."""
    groups = qkd.parameter_groups(student, rate, weight_decay=1e-4)
    return [SGD(groups.weights, momentum=0.9, nesterov=True), qkd.RelativeAdam(groups.steps)]


def loops(sgd_rates: list[float], adam_rate: float) -> dict[str, Callable[[Any], list[Optimizer]]]:
    """The optimizers by name; the trainer's own and Adam take one rate, SGD several."""
    found: dict[str, Callable[[Any], list[Optimizer]]] = {
        f"groups + RelativeAdam {sgd_rates[-1]:g}": lambda student: relative(student, sgd_rates[-1])
    }
    for rate in sgd_rates:
        found[f"SGD {rate:g}"] = lambda student, rate=rate: [  # type: ignore[misc]
            SGD(student.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        ]
    found[f"Adam {adam_rate:g}"] = lambda student: [Adam(student.parameters(), lr=adam_rate)]
    found[f"AdamW {adam_rate:g}"] = lambda student: [AdamW(student.parameters(), lr=adam_rate, weight_decay=0.05)]
    return found


def train(network: nn.Module, optimizers: list[Optimizer], data: ImageDataset, epochs: int, seed: int) -> None:
    """Minimise cross entropy with all optimizers at once; their rates fall as a cosine."""
    generator = torch.Generator().manual_seed(seed)
    schedules = [CosineAnnealingLR(optimizer, epochs) for optimizer in optimizers]
    for _ in range(epochs):
        network.train()
        for inputs, labels in batches(data.train, 64, generator, data.augmentation):
            loss = nn.functional.cross_entropy(network(inputs), labels)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
        for schedule in schedules:
            schedule.step()


@torch.no_grad()
def accuracy(network: Any, split: Any) -> float:
    """Top-1 in percent."""
    right = sum(
        int((network(normalize(split.images[part], split.normalization)).argmax(1) == split.labels[part]).sum())
        for part in torch.arange(len(split)).split(500)
    )
    return 100 * right / len(split)


def student_of(network: nn.Module, bits: str, data: ImageDataset, scales: str) -> Any:
    """The network with initialised quantizers."""
    images = normalize(data.train.images[:512], data.normalization)
    student = qkd.prepare(
        copy.deepcopy(network), bits, (images[:2],), weight_scales=scales, normalization=data.normalization
    )
    qkd.initialize(student, images)
    return student


def first(split: AnySplit, count: int) -> Split:
    """The first images of a split in memory; all of them where ``count`` is 0."""
    assert isinstance(split, Split)
    part = slice(count or None)
    return replace(split, images=split.images[part], labels=split.labels[part])


def run(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """All loops from one start."""
    torch.manual_seed(seed)
    data = qkd.load_dataset(arguments.dataset, arguments.data_dir)
    data = data.normalized(Normalization.parse(arguments.normalization))
    data = replace(data, train=first(data.train, arguments.images), test=first(data.test, arguments.images))
    network = qkd.create_model(arguments.model, len(data.classes), data.in_channels)
    rows: list[dict[str, Any]] = []
    if arguments.init:
        load_into(network, read_weights(arguments.init), arguments.model, arguments.init)
    else:
        start = [SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)]
        train(network, start, data, arguments.float_epochs, seed)
        reached = accuracy(network.eval(), data.test)
        rows.append({"loop": "fp32", "bits": "", "scales": "", "seed": seed, "accuracy": reached})
    for scales in arguments.scales:
        for bits in arguments.bits:
            for name, make in loops(arguments.sgd, arguments.adam).items():
                student = student_of(network, bits, data, scales)
                train(student, make(student), data, arguments.epochs, seed)
                reached = accuracy(qkd.freeze(student.eval()), data.test)
                rows.append({"loop": name, "bits": bits, "scales": scales, "seed": seed, "accuracy": reached})
                print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """Mean over the seeds, with the lowest and the highest."""
    result = Table("loop", "scales", "bits", "accuracy", "lowest", "highest")
    keys = dict.fromkeys((row["loop"], row["scales"], row["bits"]) for row in rows)
    for key in keys:
        values = [row["accuracy"] for row in rows if (row["loop"], row["scales"], row["bits"]) == key]
        result.add_row(*key, *(f"{value:.2f}" for value in (statistics.mean(values), min(values), max(values))))
    return result


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--init", type=Path, help="weights in full precision; trained without")
    parser.add_argument("--normalization", default="centered", help="what the network of --init takes pixels as")
    parser.add_argument("--images", type=int, default=0, help="training images and held-out images to use; 0 takes all")
    parser.add_argument("--float-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sgd", type=float, nargs="+", default=[0.05, 0.01], help="rates; the trainer takes the last")
    parser.add_argument("--adam", type=float, default=1e-3, help="rate")
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w2a2"])
    parser.add_argument("--scales", nargs="+", default=["channel"], choices=["channel", "layer"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [row for seed in range(arguments.seeds) for row in run(arguments, seed)]
    Console().print(table(rows))
    if arguments.json:
        content = {"provenance": provenance(), "results": rows}
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A part of CIFAR-10's training images and all of its test images: a data set for short comparisons on a CPU.

As ``--dataset benchmarks.cifar10_part:part --dataset-arg images=5000 --data-dir DATA``, or in a sweep.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qkd_deploy.data import ImageDataset, load_dataset
from qkd_deploy.data.split import Split


def part(data_dir: Path | None = None, images: int = 5000) -> ImageDataset:
    """CIFAR-10 with only the first ``images`` training images; its name says so."""
    whole = load_dataset("cifar10", data_dir)
    assert isinstance(whole.train, Split)
    return replace(whole, name=f"{whole.known_as}, {images} training images", train=whole.train.head(images))

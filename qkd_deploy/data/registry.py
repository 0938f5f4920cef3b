"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from qkd_deploy.data.cifar import cifar10, cifar100
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.digits import digits
from qkd_deploy.errors import UserError
from qkd_deploy.factory import Factory, build

DATASETS: dict[str, Factory] = {"digits": digits, "cifar10": cifar10, "cifar100": cifar100}


def dataset_names() -> list[str]:
    """Names that `load_dataset` knows."""
    return list(DATASETS)


def load_dataset(name: str, data_dir: Path | None = None) -> ImageDataset:
    """Read a data set into memory (CPU, uint8).

    Args:
        name: one of `dataset_names`, or ``package.module:factory``; the user's factory receives ``data_dir`` if its
            signature accepts it, and must return an `ImageDataset`.
        data_dir: where the files lie; not needed by "digits", which is embedded.

    Raises:
        UserError: an unknown name, missing, damaged or dangerous files, or a factory that cannot be imported,
            called, or returns something else.
    """
    dataset = build("data set", name, DATASETS, data_dir=data_dir)
    if not isinstance(dataset, ImageDataset):
        raise UserError(f"{name} returned a {type(dataset).__name__}; a data set factory must return an ImageDataset")
    return dataset

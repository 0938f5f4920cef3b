"""Image data sets in memory, identified by fingerprint, augmented on the device."""

from __future__ import annotations

from qkd_deploy.data.augment import Augmentation, augment
from qkd_deploy.data.batches import batches
from qkd_deploy.data.dataset import ImageDataset, Split
from qkd_deploy.data.normalize import normalize
from qkd_deploy.data.registry import dataset_names, load_dataset

__all__ = [
    "Augmentation",
    "ImageDataset",
    "Split",
    "augment",
    "batches",
    "dataset_names",
    "load_dataset",
    "normalize",
]

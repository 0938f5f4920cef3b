"""Image data sets, in memory or streamed, identified by fingerprint, augmented in batches on the device."""

from __future__ import annotations

from qkd_deploy.data.augment.augment import Augmentation, augment
from qkd_deploy.data.augment.colour import ColourJitter
from qkd_deploy.data.augment.geometry import ResizedCrop
from qkd_deploy.data.augment.mixing import Mixing
from qkd_deploy.data.augment.rand_augment import RandAugment
from qkd_deploy.data.augment.transform import Chain, Transform
from qkd_deploy.data.batches import batches
from qkd_deploy.data.dataset import AnySplit, ImageDataset
from qkd_deploy.data.images.stream import StreamedSplit
from qkd_deploy.data.metric import Metric, scores_of
from qkd_deploy.data.normalize import normalize
from qkd_deploy.data.registry import dataset_names, load_dataset
from qkd_deploy.data.split import Split

__all__ = [
    "AnySplit",
    "Augmentation",
    "Chain",
    "ColourJitter",
    "ImageDataset",
    "Metric",
    "Mixing",
    "RandAugment",
    "ResizedCrop",
    "Split",
    "StreamedSplit",
    "Transform",
    "augment",
    "batches",
    "dataset_names",
    "load_dataset",
    "normalize",
    "scores_of",
]

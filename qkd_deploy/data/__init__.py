"""Image data sets, in memory or streamed, identified by fingerprint, augmented in batches on the device."""

from __future__ import annotations

from qkd_deploy.data.augment import Augmentation, augment
from qkd_deploy.data.batches import batches
from qkd_deploy.data.colour import ColourJitter
from qkd_deploy.data.dataset import AnySplit, ImageDataset
from qkd_deploy.data.geometry import ResizedCrop
from qkd_deploy.data.metric import Metric, scores_of
from qkd_deploy.data.mixing import Mixing
from qkd_deploy.data.normalize import normalize
from qkd_deploy.data.rand_augment import RandAugment
from qkd_deploy.data.registry import dataset_names, load_dataset
from qkd_deploy.data.split import Split
from qkd_deploy.data.stream import StreamedSplit
from qkd_deploy.data.transform import Chain, Transform

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

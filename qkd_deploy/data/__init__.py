"""Image data sets, in memory or streamed, identified by fingerprint, augmented in batches on the device.

- ``sets/``: where a data set lives, one file each, with its download and its file formats; ``registry`` names them.
- ``images/``: from image files to pixels: decoding, worker processes, streamed splits.
- ``augment/``: random changes of training images, and their presets.
- here: what all share: ``dataset`` of two ``split``s, its ``fingerprint``, ``normalize``, batches (``loader``).
"""

from __future__ import annotations

from qkd_deploy.data.augment.colour import ColourJitter
from qkd_deploy.data.augment.crop_and_flip import CropAndFlip
from qkd_deploy.data.augment.geometry import ResizedCrop
from qkd_deploy.data.augment.mixing import Mixing
from qkd_deploy.data.augment.rand_augment import RandAugment
from qkd_deploy.data.augment.transform import Chain, JointTransform, Transform
from qkd_deploy.data.dataset import AnySplit, ImageDataset
from qkd_deploy.data.images.stream import StreamedSplit
from qkd_deploy.data.loader import batches
from qkd_deploy.data.metric import Metric, scores_of
from qkd_deploy.data.normalize import normalize
from qkd_deploy.data.registry import dataset_names, load_dataset
from qkd_deploy.data.split import Split

Augmentation = CropAndFlip
"""The old name of `CropAndFlip`, for one version."""

__all__ = [
    "AnySplit",
    "Augmentation",
    "Chain",
    "ColourJitter",
    "CropAndFlip",
    "ImageDataset",
    "JointTransform",
    "Metric",
    "Mixing",
    "RandAugment",
    "ResizedCrop",
    "Split",
    "StreamedSplit",
    "Transform",
    "batches",
    "dataset_names",
    "load_dataset",
    "normalize",
    "scores_of",
]

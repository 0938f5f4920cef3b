"""The embedded data set: 1,797 handwritten digits of 8x8 pixels (see digits_attribution.txt)."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch

from qkd_deploy.data.augment.crop_and_flip import CropAndFlip
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.held_out import held_out
from qkd_deploy.data.split import Split

# The file holds counts 0..16; 15 times that spreads them over 0..240.
PIXELS_PER_COUNT = 15


def digits() -> ImageDataset:
    """The UCI digits, uint8 [N, 1, 8, 8], split into 1,438 training and 359 test images.

    Of each digit's images, in the file's order, every fifth one starting with the third is a test image: the split
    is fixed, stratified, and the same writers appear in both parts (so it is easier than UCI's own split by writer).
    """
    with resources.files("qkd_deploy.data.sets").joinpath("digits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        values, labels = arrays["values"], arrays["labels"]
    images = torch.from_numpy(values * np.uint8(PIXELS_PER_COUNT)).unsqueeze(1)
    numbers = torch.from_numpy(labels.astype(np.int64))
    test = held_out(numbers)
    return ImageDataset(
        name="digits",
        train=Split(images[~test], numbers[~test]),
        test=Split(images[test], numbers[test]),
        classes=tuple("0123456789"),
        # A mirrored digit is another sign, and the paper around it is black (0), not grey.
        augmentation=CropAndFlip(pad=1, flip=False, fill=0),
        mirrored=False,
    )

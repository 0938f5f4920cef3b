"""Bring data sets that are held in memory to another image size."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.images.stream import StreamedSplit
from qkd_deploy.errors import UserError

_AT_ONCE = 1024


def resized(dataset: ImageDataset, size: int) -> ImageDataset:
    """Cut square images from the middle and resize them to ``size`` pixels; the data set's name says so.

    Raises:
        UserError: its images are read from files by a factory of the user, which has to do this itself.
    """
    if dataset.train.image_shape[1:] == (size, size):
        return dataset
    if isinstance(dataset.train, StreamedSplit) or isinstance(dataset.test, StreamedSplit):
        raise UserError(
            f"{dataset.name} reads its images from files, so it decides their size; "
            "leave out --image-size (image_size in Python)"
        )
    if dataset.train.labels.dim() > 1 and dataset.metric is None:
        raise UserError(
            f"the targets of {dataset.name} have places in its images, which its own factory has to resize; "
            "leave out --image-size (image_size in Python)"
        )
    train, test = (replace(split, images=_square(split.images, size)) for split in (dataset.train, dataset.test))
    return replace(dataset, name=f"{dataset.known_as} at {size}x{size}", train=train, test=test)


def _square(images: torch.Tensor, size: int) -> torch.Tensor:
    side = min(images.shape[2:])
    top, left = ((length - side) // 2 for length in images.shape[2:])
    middle = images[:, :, top : top + side, left : left + side]
    parts = [
        F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        for part in torch.split(middle, _AT_ONCE)
    ]
    return torch.cat(parts)

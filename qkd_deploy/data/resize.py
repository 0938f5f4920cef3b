"""Bring data sets that are held in memory to another image size."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.images.stream import StreamedSplit
from qkd_deploy.data.split import Split
from qkd_deploy.errors import UserError

_AT_ONCE = 1024


def resized(dataset: ImageDataset, size: int) -> ImageDataset:
    """Cut square images from the middle and resize them to ``size`` pixels; the data set's name says so.

    Masks of the images' size are cut and resized alike, each pixel the nearest one.

    Raises:
        UserError: its images are read from files by a factory of the user, or its targets have places in the images
            otherwise, so that the factory has to do this itself.
    """
    if dataset.train.image_shape[1:] == (size, size):
        return dataset
    if isinstance(dataset.train, StreamedSplit) or isinstance(dataset.test, StreamedSplit):
        raise UserError(
            f"{dataset.name} reads its images from files, so it decides their size; "
            "leave out --image-size (image_size in Python)"
        )
    train, test = (_resized_split(dataset, split, size) for split in (dataset.train, dataset.test))
    return replace(dataset, name=f"{dataset.known_as} at {size}x{size}", train=train, test=test)


def _resized_split(dataset: ImageDataset, split: Split, size: int) -> Split:
    labels = split.labels
    if dataset.metric is None and labels.dim() > 2:
        if labels.dtype != torch.uint8 or labels.shape[1:] != split.images.shape[2:]:
            raise UserError(
                f"the targets of {dataset.name} have places in its images, so it decides their size; "
                "leave out --image-size (image_size in Python)"
            )
        labels = _square_masks(labels, size)
    return replace(split, images=_square(split.images, size), labels=labels)


def _square_masks(masks: torch.Tensor, size: int) -> torch.Tensor:
    """Look up the pixel in which the middle of each wanted one lies, in the square in the middle."""
    side = min(masks.shape[1:])
    middles = (2 * torch.arange(size, device=masks.device) + 1) * side // (2 * size)
    top, left = ((length - side) // 2 for length in masks.shape[1:])
    return masks[:, top + middles][:, :, left + middles]


def _square(images: torch.Tensor, size: int) -> torch.Tensor:
    side = min(images.shape[2:])
    top, left = ((length - side) // 2 for length in images.shape[2:])
    middle = images[:, :, top : top + side, left : left + side]
    parts = [
        F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        for part in torch.split(middle, _AT_ONCE)
    ]
    return torch.cat(parts)

"""Normalised batches from a split that stays uint8 on its device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from qkd_deploy.data.augment import Augmentation
from qkd_deploy.data.dataset import Split
from qkd_deploy.data.normalize import normalize
from qkd_deploy.errors import UserError


def batches(
    split: Split,
    batch_size: int,
    generator: torch.Generator | None = None,
    augmentation: Augmentation | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Iterate once over ``split``; every image comes exactly once, the last batch may be smaller.

    Args:
        split: where images come from; batches are on its device.
        batch_size: images in a batch, at least 1.
        generator: shuffles (and drives the augmentation); without it the order is that of the split.
        augmentation: applied to the uint8 images of each batch; needs a generator.

    Yields:
        normalised float32 images [B, C, H, W] and int64 labels [B].

    Raises:
        UserError: the batch size is below 1.
        ValueError: an augmentation without a generator.
    """
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; give 1 or more")
    if augmentation is not None and generator is None:
        raise ValueError("augmentation is random: pass the generator that drives it")
    return _iterate(split, batch_size, generator, augmentation)


def _iterate(
    split: Split, batch_size: int, generator: torch.Generator | None, augmentation: Augmentation | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    device = split.images.device
    order = None
    if generator is not None:
        order = torch.randperm(len(split), generator=generator, device=generator.device).to(device)
    for start in range(0, len(split), batch_size):
        chosen = slice(start, start + batch_size) if order is None else order[start : start + batch_size]
        images, labels = split.images[chosen], split.labels[chosen]
        if augmentation is not None and generator is not None:
            images = augmentation(images, generator)
        yield normalize(images), labels

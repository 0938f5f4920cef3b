"""Training batches whose every random choice comes from one generator that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from qkd_deploy.data import Augmentation, Split, batches


class BatchStream:
    """Shuffled, augmented, normalised batches of a split on its device, one epoch after the other.

    An incomplete last batch is left out (its batch statistics are the noisiest, and shuffling gives its images their
    turn in other epochs), unless it is the only one.

    Args:
        split: the training images.
        batch_size: images per batch.
        augmentation: applied to each batch; None leaves the images as they are.
        seed: of the generator, which lives on the CPU so that all devices see the same order and crops.
    """

    def __init__(self, split: Split, batch_size: int, augmentation: Augmentation | None, seed: int) -> None:
        self._split = split
        self._batch_size = min(batch_size, len(split))
        self._augmentation = augmentation
        self.generator = torch.Generator()
        self.generator.manual_seed(seed)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._split) // self._batch_size

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (float32 images [N, C, H, W], int64 labels [N]) once through the set in a new order."""
        return islice(batches(self._split, self._batch_size, self.generator, self._augmentation), len(self))

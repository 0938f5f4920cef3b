"""Training batches whose every random choice comes from one generator that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from qkd_deploy.data import batches
from qkd_deploy.data.augment.mixing import Mixing
from qkd_deploy.data.augment.transform import JointTransform, Transform
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.errors import UserError


class BatchStream:
    """Shuffled, augmented, normalised batches of a split on its device, one epoch after the other.

    An incomplete last batch is left out (its batch statistics are the noisiest, and shuffling gives its images their
    turn in other epochs), unless it is the only one.

    Args:
        split: the training images.
        batch_size: images per batch, over all processes.
        augmentation: applied to each batch; None leaves the images as they are.
        seed: of the generator, which lives on the CPU so that all devices and processes see the same order and crops.
        shard: (rank, world): this process gets its slice of every batch.
        mixing: mixes pairs of images of each batch, which then has probabilities [N, classes] as labels.
        classes: number of classes, for ``mixing``.
        collate: prepares the targets of a batch; by default they are left as they are.

    Raises:
        UserError: the batches cannot be divided between the processes.
    """

    def __init__(
        self,
        split: AnySplit,
        batch_size: int,
        augmentation: Transform | JointTransform | None,
        seed: int,
        *,
        shard: tuple[int, int] = (0, 1),
        mixing: Mixing | None = None,
        classes: int = 0,
        collate: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._split = split
        self._batch_size = min(batch_size, len(split))
        self._augmentation = augmentation
        self._shard = shard
        self._mixing = mixing
        self._classes = classes
        self._collate = collate
        self.generator = torch.Generator()
        self.generator.manual_seed(seed)
        if self._batch_size % shard[1]:
            raise UserError(
                f"{shard[1]} processes cannot share batches of {self._batch_size} images equally; "
                f"give a --batch-size of at most {len(split)} that is a multiple of {shard[1]}"
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._split) // self._batch_size

    @property
    def images(self) -> int:
        """Images per epoch, over all processes."""
        return len(self) * self._batch_size

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (float32 images [N, C, H, W], targets) once through the set in a new order.

        Targets of classifiers are int64 [N], or float32 [N, classes] of mixed images.
        """
        stream = batches(
            self._split,
            self._batch_size,
            self.generator,
            self._augmentation,
            self._shard,
            self._mixing,
            self._classes,
        )
        whole = islice(stream, len(self))
        if self._collate is None:
            return whole
        collate = self._collate
        return ((images, collate(targets)) for images, targets in whole)

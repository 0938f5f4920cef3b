"""The samples of a verification: arrays, or a split of a data set that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from qkd_deploy.data.dataset import AnySplit

Part = tuple[tuple[np.ndarray, ...], np.ndarray | None]
"""One array for each input of the model, and labels where they are known."""


class Samples(Protocol):
    """Samples for all inputs of a model."""

    @property
    def kinds(self) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
        """Type and whole shape of what each input is given."""

    @property
    def labelled(self) -> bool:
        """True where labels are known."""

    def __len__(self) -> int:
        """Number of samples."""

    def read(self, size: int, limit: int) -> Iterator[Part]:
        """At most ``size`` samples at a time, in order, of the first ``limit`` samples."""


@dataclass(frozen=True)
class ArraySamples:
    """One array for each input, without labels."""

    arrays: tuple[np.ndarray, ...]

    @property
    def kinds(self) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
        """Types and shapes of the arrays."""
        return [(array.dtype, array.shape) for array in self.arrays]

    @property
    def labelled(self) -> bool:
        """No labels come with arrays."""
        return False

    def __len__(self) -> int:
        return len(self.arrays[0])

    def read(self, size: int, limit: int) -> Iterator[Part]:
        """Parts of the arrays."""
        for start in range(0, limit, size):
            yield tuple(array[start : min(start + size, limit)] for array in self.arrays), None


@dataclass(frozen=True)
class SplitSamples:
    """The images of a split, read when they are due."""

    split: AnySplit

    @property
    def kinds(self) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
        """Raw pixels for the only input."""
        return [(np.dtype(np.uint8), (len(self.split), *self.split.image_shape))]

    @property
    def labelled(self) -> bool:
        """True where the split is labelled."""
        return self.split.labelled

    def __len__(self) -> int:
        return len(self.split)

    def read(self, size: int, limit: int) -> Iterator[Part]:
        """Images as evaluation sees them, and labels."""
        for images, labels in self.split.read(torch.split(torch.arange(limit), size)):
            yield (images.cpu().numpy(),), labels.cpu().numpy() if self.labelled else None

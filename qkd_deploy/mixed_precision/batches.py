"""Read the batches that sensitivity is measured on, as often as needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qkd_deploy.calibration.inputs import evenly_spaced, network_inputs
from qkd_deploy.data import AnySplit, ImageDataset, normalize
from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import Normalization

_BATCH = 64


class LabelledBatches:
    """Batches of inputs, with labels where there are any.

    Args:
        data: a loaded data set or a split of one, or batches, each a tensor or a tuple that begins with the network's
            inputs; an iterator is read into memory.
        images: how many images of a data set to use, evenly spaced; batches are all used.
        normalization: what the network takes pixels as; None takes what the data set says.

    Raises:
        UserError: there is no batch, or no image is wanted.
    """

    def __init__(self, data: Any, images: int, normalization: Normalization | None = None) -> None:
        split = data.train if isinstance(data, ImageDataset) else data
        self._split: AnySplit | None = split if isinstance(split, AnySplit) else None
        # a data set with a metric of its own has targets that cross entropy does not take
        self._classified = not (isinstance(data, ImageDataset) and data.metric is not None)
        self._images, self._normalization = images, normalization
        self._given: list[Any] = []
        if self._split is None:
            self._given = [data] if isinstance(data, Tensor) else list(data)
            if not self._given:
                raise UserError("there is nothing to measure with; give at least one batch")
        elif images < 1:
            raise UserError(f"sensitivity on {images} images is impossible; give 1 or more")

    def __iter__(self) -> Iterator[tuple[Any, Tensor | None]]:
        """Yield inputs, normalised, and class labels int64 [N] or None."""
        if self._split is None:
            yield from ((batch, None) for batch in self._given)
            return
        places = evenly_spaced(self._images, len(self._split))
        classified = self._classified and self._split.labelled and self._split.labels.dim() == 1
        for images, labels in self._split.read(torch.split(places, _BATCH)):
            yield normalize(images, self._normalization or self._split.normalization), labels if classified else None

    def read(self, prepared: PreparedModel) -> Iterator[tuple[tuple[Any, ...], Tensor | None]]:
        """Yield the same as ``prepared`` takes it, on its device; what follows the inputs of a tuple may be labels."""
        for batch, labels in self:
            inputs = network_inputs(prepared, batch)
            if labels is None:
                labels = _labels_behind(batch, len(prepared.graph.inputs))
            yield inputs, None if labels is None else labels.to(inputs[0].device)


def _labels_behind(batch: Any, inputs: int) -> Tensor | None:
    """Take the item behind the inputs of a tuple where it looks like class labels."""
    if isinstance(batch, Tensor) or len(tuple(batch)) <= inputs:
        return None
    item = tuple(batch)[inputs]
    return item if isinstance(item, Tensor) and item.dim() == 1 and item.dtype == torch.int64 else None

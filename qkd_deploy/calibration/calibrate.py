"""Set scales from many batches: the start of training, and post-training quantization where there is no training.

Batches run through the network one after the other, while an observer gathers every tensor in bounded memory. Each
tensor is quantized before it is passed on, so that the layers behind it see what they will see when deployed: the first
batch sets all scales layer by layer (it is all that ``initialize`` does), and from then on they follow the observers,
at the 2nd, 4th, 8th ... batch and at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from qkd_deploy.calibration.batch_norms import reestimate_batch_norms
from qkd_deploy.calibration.inputs import evenly_spaced, network_inputs
from qkd_deploy.calibration.one_batch import initialize, tie_breaking_factors
from qkd_deploy.calibration.settings import IMAGES
from qkd_deploy.data import ImageDataset, normalize
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.quantizers.observer import HistogramObserver
from qkd_deploy.quantizers.scale_search import require_method, scale_from

_BATCH = 128


@torch.no_grad()
def calibrate(
    prepared: PreparedModel,
    data: Tensor | Iterable[Any] | ImageDataset | AnySplit,
    *,
    method: str = "mse",
    images: int = IMAGES,
    batch_norm: bool = False,
) -> None:
    """Set every learned scale from the weights and from ``data``; memory does not grow with the number of batches.

    Args:
        prepared: the model from ``prepare``.
        data: one batch as a tensor; or batches, each a tensor or a tuple that begins with the network's inputs, such as
            (images, labels), all normalised as the network takes them; or a loaded data set or a split of one, of which
            evenly spaced (training) images are used without augmentation. An iterator is used up.
        method: "mse", "percentile", "lsq" or "minmax", see ``quantizers.scale_search``; "auto" takes the quantizer's
            own.
        images: how many images of a data set to use; batches are all used.
        batch_norm: re-estimate the running statistics of batch norms as well, in the quantized network, and set the
            activations' scales once more behind them. ``data`` must then be no iterator.

    Raises:
        UserError: an unknown method, no data, raw pixels, or values that are not finite.
    """
    if method != "auto":
        require_method(method)
    if batch_norm and isinstance(data, Iterator):
        raise UserError("batch norms need a second pass over the data; give a list or a loader instead of an iterator")
    if batch_norm and images < 2:
        raise UserError("batch norms cannot be estimated from one image; give some hundred")
    _set_scales(prepared, _batches(prepared, data, images), method)
    if batch_norm:
        reestimate_batch_norms(prepared, _batches(prepared, data, images))
        _set_scales(prepared, _batches(prepared, data, images), method)


def _set_scales(prepared: PreparedModel, batches: Iterator[tuple[Any, ...]], method: str) -> None:
    first = next(batches, None)
    if first is None:
        raise UserError("there is nothing to calibrate with; give at least one batch")
    initialize(prepared, *first, method=method)
    second = next(batches, None)
    if second is None:
        return
    observed = _ObservedActivations(prepared, method)
    with evaluating(prepared):
        for number, inputs in enumerate(chain((first, second), batches), 1):
            observed.run(inputs, follow=_is_power_of_two(number))
    observed.set_scales()


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


class _ObservedActivations:
    """An observer of every activation that has a learned scale, fed with the batches run so far."""

    def __init__(self, prepared: PreparedModel, method: str) -> None:
        self._prepared = prepared
        self._method = method
        self._observers: dict[str, HistogramObserver] = {}
        self._factors: dict[str, float] = {}
        self._next_factors = tie_breaking_factors()

    def run(self, inputs: tuple[Any, ...], *, follow: bool) -> None:
        """Observe a batch; with ``follow``, each scale is set anew before its tensor is quantized and passed on."""

        def observe(node: Node, value: Any) -> None:
            if node.quantizer is None:
                return
            quantizer = self._prepared.activation(node.quantizer)
            if not quantizer.fixed:
                self._observe(node.quantizer, value, signed=quantizer.spec.signed)
                if follow:
                    self._set_scale(node.quantizer)

        self._prepared.run_observed(inputs, observe)

    def _observe(self, key: str, value: Tensor, *, signed: bool) -> None:
        if key not in self._observers:
            self._observers[key] = HistogramObserver(signed=signed)
            self._factors[key] = next(self._next_factors)
        self._observers[key].update(value)

    def set_scales(self) -> None:
        """Set every scale from all batches."""
        for key in self._observers:
            self._set_scale(key)

    def _set_scale(self, key: str) -> None:
        quantizer = self._prepared.activation(key)
        method = quantizer.initialization if self._method == "auto" else self._method
        quantizer.set_scale(scale_from(self._observers[key], quantizer.spec, method) * self._factors[key])


def _batches(prepared: PreparedModel, data: Any, images: int) -> Iterator[tuple[Any, ...]]:
    """Yield the inputs of the network, batch by batch, on its device."""
    if isinstance(data, ImageDataset):
        data = data.train
    if isinstance(data, AnySplit):
        data = _images(data, images, prepared.settings.normalization or data.normalization)
    return (network_inputs(prepared, batch) for batch in ((data,) if isinstance(data, Tensor) else data))


def _images(split: AnySplit, count: int, normalization: Normalization) -> Iterator[Tensor]:
    """Yield normalised batches of ``count`` images in all."""
    if count < 1:
        raise UserError(f"calibration on {count} images is impossible; give 1 or more")
    places = evenly_spaced(count, len(split))
    # batches of about one size, each of which counts the same for batch norms
    pieces = torch.tensor_split(places, -(-len(places) // _BATCH))
    return (normalize(split.images_at(chosen), normalization) for chosen in pieces)

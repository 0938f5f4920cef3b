"""Steps from many batches: a starting point for training, and post-training quantization where there is no training.

Batches run through the network one after the other, while statistics of every tensor are gathered in bounded memory.
Each tensor is quantized before it is passed on, so that the layers behind it see what they will see when deployed: the
first batch sets all steps layer by layer (it is all that ``initialize`` does), and from then on they follow the
statistics, at the 2nd, 4th, 8th ... batch and at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from qkd_deploy.calibration.batch_norms import network_inputs, reestimate_batch_norms
from qkd_deploy.calibration.one_batch import initialize, spread
from qkd_deploy.data import ImageDataset, normalize
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepare import PreparedModel
from qkd_deploy.quantizers.observer import HistogramObserver
from qkd_deploy.quantizers.scale_search import require_method, step_from

IMAGES = 512
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
    """Set every learned step from the weights and from ``data``; memory does not grow with the number of batches.

    Args:
        prepared: the model from ``prepare``.
        data: one batch as a tensor; or batches, each a tensor or a tuple that begins with the network's inputs, such as
            (images, labels), all normalised as the network takes them; or a loaded data set or a split of one, of which
            evenly spaced (training) images are used without augmentation. An iterator is used up.
        method: "mse", "percentile", "lsq" or "minmax", see ``quantizers.initialization``; "auto" takes the quantizer's
            own.
        images: how many images of a data set to use; batches are all used.
        batch_norm: re-estimate the running statistics of batch norms as well, in the quantized network, and set the
            activations' steps once more behind them. ``data`` must then be no iterator.

    Raises:
        UserError: an unknown method, no data, raw pixels, or values that are not finite.
    """
    if method != "auto":
        require_method(method)
    if batch_norm and isinstance(data, Iterator):
        raise UserError("batch norms need a second pass over the data; give a list or a loader instead of an iterator")
    if batch_norm and images < 2:
        raise UserError("batch norms cannot be estimated from one image; give some hundred")
    _set_steps(prepared, _batches(prepared, data, images), method)
    if batch_norm:
        reestimate_batch_norms(prepared, _batches(prepared, data, images))
        _set_steps(prepared, _batches(prepared, data, images), method)


def _set_steps(prepared: PreparedModel, batches: Iterator[tuple[Any, ...]], method: str) -> None:
    first = next(batches, None)
    if first is None:
        raise UserError("there is nothing to calibrate with; give at least one batch")
    initialize(prepared, *first, method=method)
    second = next(batches, None)
    if second is None:
        return
    gathering = _Gathering(prepared, method)
    with evaluating(prepared):
        for number, inputs in enumerate(chain((first, second), batches), 1):
            gathering.run(inputs, follow=_is_power_of_two(number))
    gathering.set_steps()


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


class _Gathering:
    """Statistics of all activations that are to be quantized, over the batches run so far."""

    def __init__(self, prepared: PreparedModel, method: str) -> None:
        self._prepared = prepared
        self._method = method
        self._statistics: dict[str, HistogramObserver] = {}
        self._factors: dict[str, float] = {}
        self._spread = spread()

    def run(self, inputs: tuple[Any, ...], *, follow: bool) -> None:
        """Take in a batch; with ``follow``, each step is set anew before its tensor is quantized and passed on."""

        def evaluate(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = self._prepared.unquantized(node, args, kwargs)
            if node.quantizer is None:
                return value
            quantizer = self._prepared.activation(node.quantizer)
            if not quantizer.fixed:
                self._take_in(node.quantizer, value, signed=quantizer.spec.signed)
                if follow:
                    self._set_step(node.quantizer)
            return quantizer(value)

        self._prepared.graph.run(inputs, evaluate)

    def _take_in(self, key: str, value: Tensor, *, signed: bool) -> None:
        if key not in self._statistics:
            self._statistics[key] = HistogramObserver(signed=signed)
            self._factors[key] = next(self._spread)
        self._statistics[key].update(value)

    def set_steps(self) -> None:
        """Set every step from all that was taken in."""
        for key in self._statistics:
            self._set_step(key)

    def _set_step(self, key: str) -> None:
        quantizer = self._prepared.activation(key)
        method = quantizer.initialization if self._method == "auto" else self._method
        quantizer.set_scale(step_from(self._statistics[key], quantizer.spec, method) * self._factors[key])


def _batches(prepared: PreparedModel, data: Any, images: int) -> Iterator[tuple[Any, ...]]:
    """The inputs of the network, batch by batch, on its device."""
    if isinstance(data, ImageDataset):
        data = data.train
    if isinstance(data, AnySplit):
        data = _images(data, images)
    return (network_inputs(prepared, batch) for batch in ((data,) if isinstance(data, Tensor) else data))


def _images(split: AnySplit, count: int) -> Iterator[Tensor]:
    """Normalised batches of ``count`` images in all, evenly spaced, because many data sets are sorted by class."""
    if count < 1:
        raise UserError(f"calibration on {count} images is impossible; give 1 or more")
    count = min(count, len(split))
    places = torch.arange(count) * len(split) // count
    # batches of about one size, each of which counts the same for batch norms
    return (normalize(split.images_at(chosen)) for chosen in torch.tensor_split(places, -(-count // _BATCH)))

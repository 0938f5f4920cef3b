"""Set scales from many batches: the start of training, and post-training quantization where there is no training.

Batches run through the network one after the other, while an observer gathers every tensor in bounded memory. Each
tensor is quantized before it is passed on, so that the layers behind it see what they will see when deployed: the first
batch sets all scales layer by layer (it is all that ``initialize`` does), and from then on they follow the observers,
at the 2nd, 4th, 8th ... batch and at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.calibration.batch_norms import reestimate_batch_norms
from qkd_deploy.calibration.correction import OutputCorrection
from qkd_deploy.calibration.diagnosis import Diagnosis, diagnose
from qkd_deploy.calibration.float_reference import FloatReference
from qkd_deploy.calibration.inputs import each_batch, evenly_spaced, network_inputs
from qkd_deploy.calibration.observed_activations import ObservedActivations
from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.calibration.settings import IMAGES
from qkd_deploy.data import ImageDataset, normalize
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.errors import QuantizationWarning, UserError
from qkd_deploy.graph.integer.given import as_prepared
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.quantizers.scale_search import require_method

_BATCH = 32
"""Two networks keep their activations of a batch in memory at the same time."""
DIAGNOSED = 16
"""Samples on which layers are compared with their float form."""


class CalibrationWarning(QuantizationWarning):
    """The bits of a layer are too few, as ``diagnosis.py`` says."""


def calibrate(
    prepared: nn.Module,
    data: Tensor | Iterable[Any] | ImageDataset | AnySplit,
    *,
    method: str = "mse",
    images: int = IMAGES,
    batch_norm: bool = False,
    correction: bool = True,
) -> Diagnosis:
    """Set every learned scale from the weights and from ``data``; memory does not grow with the number of batches.

    Layers for which the bits are too few come back, the worst first, and each as a ``CalibrationWarning``.

    Args:
        prepared: the model from ``prepare``, wrapped or not.
        data: one batch as a tensor; or batches, each a tensor or a tuple that begins with the network's inputs, such as
            (images, labels), all normalised as the network takes them; or a loaded data set or a split of one, of which
            evenly spaced (training) images are used without augmentation. An iterator is used up.
        method: "mse", "percentile", "lsq" or "minmax", see ``quantizers.scale_search``; "auto" takes the quantizer's
            own. With "mse" and "auto", 8-bit answers that no integer kernel reads keep their extremes.
        images: how many images of a data set to use; batches are all used.
        batch_norm: re-estimate the running statistics of batch norms as well, in the quantized network, and set the
            activations' scales once more behind them. ``data`` must then be no iterator.
        correction: change biases, and gains of batch norms, so that every output channel has the mean and the spread
            that it had in float. Prepare the float network anew to calibrate it once more.

    Raises:
        UserError: not a prepared model, an unknown method, no data, raw pixels, or values that are not finite.
    """
    options: dict[str, Any] = {"images": images, "batch_norm": batch_norm, "correction": correction}
    diagnosis = calibrate_and_diagnose(as_prepared(prepared, "calibrate"), data, method=method, **options)
    for line in diagnosis.lines():
        warnings.warn(line, CalibrationWarning, stacklevel=2)
    return diagnosis


@torch.no_grad()
def calibrate_and_diagnose(
    prepared: PreparedModel, data: Any, *, method: str, images: int, batch_norm: bool, correction: bool
) -> Diagnosis:
    """Do what ``calibrate`` does, without warnings."""
    if method != "auto":
        require_method(method)
    if batch_norm and isinstance(data, Iterator):
        raise UserError("batch norms need a second pass over the data; give a list or a loader instead of an iterator")
    if batch_norm and images < 2:
        raise UserError("batch norms cannot be estimated from one image; give some hundred")
    reference = FloatReference(prepared)
    if batch_norm:
        _set_scales(prepared, input_batches(prepared, data, images), method, None)
        reestimate_batch_norms(prepared, input_batches(prepared, data, images))
    corrected = OutputCorrection(prepared, reference) if correction else None
    first = _set_scales(prepared, input_batches(prepared, data, images), method, corrected)
    with evaluating(prepared):
        return diagnose(prepared, reference, tuple(value[:DIAGNOSED] for value in first))


def _set_scales(
    prepared: PreparedModel, batches: Iterator[tuple[Any, ...]], method: str, correction: OutputCorrection | None
) -> tuple[Any, ...]:
    """Set all scales; returns the first batch."""
    first = next(batches, None)
    if first is None:
        raise UserError("there is nothing to calibrate with; give at least one batch")
    initialize(prepared, *first, method=method)
    observed = ObservedActivations(prepared, method)
    with evaluating(prepared):
        for number, inputs in enumerate(chain((first,), batches), 1):
            observed.run(inputs, follow=_is_power_of_two(number), correction=correction)
    observed.set_scales()
    return first


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def input_batches(prepared: PreparedModel, data: Any, images: int) -> Iterator[tuple[Any, ...]]:
    """Yield the inputs of the network, batch by batch, on its device."""
    if isinstance(data, ImageDataset):
        data = data.train
    if isinstance(data, AnySplit):
        data = _images(data, images, prepared.settings.normalization or data.normalization)
    return (network_inputs(prepared, batch) for batch in each_batch(data))


def _images(split: AnySplit, count: int, normalization: Normalization) -> Iterator[Tensor]:
    """Yield normalised batches of ``count`` images in all."""
    if count < 1:
        raise UserError(f"calibration on {count} images is impossible; give 1 or more")
    places = evenly_spaced(count, len(split))
    # batches of about one size, each of which counts the same for batch norms
    pieces = torch.tensor_split(places, -(-len(places) // _BATCH))
    return (normalize(split.images_at(chosen), normalization) for chosen in pieces)

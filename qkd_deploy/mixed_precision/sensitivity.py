"""Measure the loss that each layer causes when it alone is quantized, with everything else in full precision.

The network is traced once. Every layer's input is observed on the full-precision network; from the observers, and from
the weights, come the scales with the smallest squared error at any number of bits. Batches then run through the
full-precision network, and wherever a layer is reached, the rest of the network is run once more for every number of
bits, with that layer's weights and input rounded. So a batch costs half as many passes as there are layers and bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.calibration.settings import IMAGES
from qkd_deploy.data import AnySplit, ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepare import prepare
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.batches import LabelledBatches
from qkd_deploy.mixed_precision.costs import LayerCosts, layer_costs
from qkd_deploy.mixed_precision.one_layer import SingleLayers

CROSS_ENTROPY = "cross entropy"
OUTPUT_CHANGE = "relative output change"


@dataclass(frozen=True)
class LayerLoss:
    """The loss that one layer causes at some bits, and its costs.

    Attributes:
        module: the user's module.
        bits: of its weights and its input, such as "w4a4".
        loss: rise of the measure of the whole network; it may fall by chance.
        parameters, macs: of the layer; multiplications and additions for one sample.
        bytes: of its weights in a file with packed weights.
        saved: bytes that are saved there against 8 bits.
    """

    module: str
    bits: str
    loss: float
    parameters: int
    macs: int
    bytes: int
    saved: int


@dataclass(frozen=True)
class Sensitivity:
    """The losses of all layers, the most sensitive first.

    Attributes:
        measure: "cross entropy" with labels; else "relative output change": the squared change of the outputs over
            their squares, averaged over samples and added up over outputs.
        images: samples that it was measured on.
        baseline: the measure in full precision.
        layers: by loss; with several bits, one entry for each.
    """

    measure: str
    images: int
    baseline: float
    layers: tuple[LayerLoss, ...]


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    data: Iterable[Any] | ImageDataset | AnySplit,
    bits: str | BitWidths | Sequence[str | BitWidths] = "w4a4",
    *,
    images: int = IMAGES,
) -> Sensitivity:
    """Rank the layers of a network by the loss that each causes when it alone is quantized.

    Args:
        model: a float network, or a prepared one, of which the full-precision weights are taken.
        data: a loaded data set or a split of one, of which evenly spaced (training) images are used; or batches, each
            a tensor or a tuple that begins with the network's inputs, such as (images, labels).
        bits: of the layer that is quantized; several give an entry for each.
        images: how many images of a data set to use; batches are all used.

    Raises:
        UserError: bits or data that cannot be used, or a network that cannot be traced.
    """
    widths = [BitWidths.parse(each) for each in ((bits,) if isinstance(bits, (str, BitWidths)) else bits)]
    batches = LabelledBatches(data, images, model.settings.normalization if isinstance(model, PreparedModel) else None)
    prepared = model if isinstance(model, PreparedModel) else _prepared(model, widths[0], batches)
    single, totals = SingleLayers(prepared), _Totals()
    with evaluating(prepared):
        for inputs, _ in batches.read(prepared):
            single.observe(inputs)
        for inputs, labels in batches.read(prepared):
            totals.add(single, inputs, labels, widths)
    return totals.result(layer_costs(prepared))


def _prepared(model: nn.Module, bits: BitWidths, batches: LabelledBatches) -> PreparedModel:
    """Prepare a float network on the first batch."""
    first, _ = next(iter(batches))
    inputs = (first,) if isinstance(first, Tensor) else tuple(item for item in first if _is_input(item))
    return prepare(model, bits, inputs)


def _is_input(item: Any) -> bool:
    return isinstance(item, Tensor) and item.is_floating_point()


def _require_known(labels: Tensor | None, classes: int) -> None:
    if labels is not None and not bool(((labels >= 0) & (labels < classes)).all()):
        raise UserError(
            f"the network tells {classes} classes apart, but the images have labels {int(labels.min())}.."
            f"{int(labels.max())}; measure on images of its own classes, or without labels"
        )


class _Totals:
    """Sums of the measure over batches: in full precision, and with each layer quantized."""

    def __init__(self) -> None:
        self._measure = CROSS_ENTROPY
        self._images = 0
        self._baseline = 0.0
        self._sums: dict[tuple[str, str], float] = {}

    def add(
        self, single: SingleLayers, inputs: tuple[Any, ...], labels: Tensor | None, widths: list[BitWidths]
    ) -> None:
        float_outputs = single.outputs(inputs)
        classified = labels is not None and len(float_outputs) == 1 and float_outputs[0].dim() == 2
        if classified:
            _require_known(labels, float_outputs[0].shape[1])
        self._measure = CROSS_ENTROPY if classified else OUTPUT_CHANGE
        self._images += len(float_outputs[0])

        def loss(outputs: list[Tensor]) -> float:
            if classified:
                assert labels is not None
                return float(F.cross_entropy(outputs[0].double(), labels, reduction="sum"))
            return float(sum(_change(new, old) for new, old in zip(outputs, float_outputs, strict=True)))

        self._baseline += loss(float_outputs)
        for module, bits, outputs in single.variants(inputs, widths):
            key = module, str(bits)
            self._sums[key] = self._sums.get(key, 0.0) + loss(outputs)

    def result(self, costs: dict[str, LayerCosts]) -> Sensitivity:
        baseline = self._baseline / self._images
        layers = [
            LayerLoss(module, bits, total / self._images - baseline, **costs[module].at(BitWidths.parse(bits)))
            for (module, bits), total in self._sums.items()
        ]
        layers.sort(key=lambda layer: -layer.loss)
        return Sensitivity(self._measure, self._images, baseline, tuple(layers))


def _change(new: Tensor, old: Tensor) -> float:
    """Sum over samples the squared change of an output over its squares."""
    new, old = new.double().flatten(1), old.double().flatten(1)
    squares = old.square().sum(1).clamp(min=torch.finfo(torch.float32).tiny)  # an output of zeros divides by no zero
    return float(((new - old).square().sum(1) / squares).sum())

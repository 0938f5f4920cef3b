"""Second moments of what a layer reads: all that its error depends on when its weights change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_POSITIONS = 2**14
"""Places of the layer's output that are enough, over all images; an image has at least ``_LEAST`` of them."""
_LEAST = 16
_VALUES_AT_ONCE = 2**24


@dataclass(frozen=True)
class SecondMoments:
    """Means and covariances of the columns that a layer multiplies its weights with.

    A column holds the ``d`` inputs of one output: for a convolution the patch under its kernel. ``x`` are the columns
    of the quantized network, ``y`` those of the network in full precision, in each of ``G`` groups.

    Attributes:
        mean: of ``x``, [G, d].
        float_mean: of ``y``, [G, d].
        covariance: of ``x``, [G, d, d].
        error_covariance: of ``y - x`` (rows) with ``x`` (columns), [G, d, d].
    """

    mean: Tensor
    float_mean: Tensor
    covariance: Tensor
    error_covariance: Tensor


def second_moments(layer: nn.Module, quantized: Tensor, full: Tensor, generator: torch.Generator) -> SecondMoments:
    """Sum up the columns of a layer's input over all images, and over some places of each image.

    Args:
        layer: a convolution or a linear layer.
        quantized: what it reads in the quantized network: [N, C, ...], or [N, ..., C] for a linear layer.
        full: the same in full precision.
        generator: chooses the places, the same of all images that are read at once.
    """
    places = max(_LEAST, _POSITIONS // len(quantized))
    at_once = max(1, _VALUES_AT_ONCE // (quantized[0].numel() * _patch(layer)))
    sums: list[Tensor] = []
    count = 0
    for x, y in zip(torch.split(quantized, at_once), torch.split(full, at_once), strict=True):
        columns, float_columns = _columns(layer, x), _columns(layer, y)
        if columns.shape[3] > places:
            chosen = torch.randperm(columns.shape[3], generator=generator)[:places].to(x.device)
            columns, float_columns = columns[..., chosen], float_columns[..., chosen]
        count += columns.shape[0] * columns.shape[3]
        parts = _sums(columns.permute(1, 2, 0, 3).flatten(2), float_columns.permute(1, 2, 0, 3).flatten(2))
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
    mean, float_mean, product, error_product = (total / count for total in sums)
    return SecondMoments(
        mean,
        float_mean,
        product - mean.unsqueeze(2) * mean.unsqueeze(1),
        error_product - (float_mean - mean).unsqueeze(2) * mean.unsqueeze(1),
    )


def _sums(x: Tensor, y: Tensor) -> list[Tensor]:
    """Sums over columns [G, d, M] and over their products, in float64."""
    transposed = x.transpose(1, 2)
    return [total.double() for total in (x.sum(2), y.sum(2), x @ transposed, (y - x) @ transposed)]


def _patch(layer: nn.Module) -> int:
    """Count the inputs that an output reads of each channel."""
    return layer.weight[0, 0].numel() if isinstance(layer, nn.Conv1d | nn.Conv2d) else 1


def _columns(layer: nn.Module, x: Tensor) -> Tensor:
    """Arrange inputs as columns [N, G, d, places]."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2).unsqueeze(1)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    x = F.pad(x, layer._reversed_padding_repeated_twice)
    # a 1-d convolution is one over images of one row
    images = x if x.dim() == 4 else x.unsqueeze(2)
    kernel, dilation, stride = (
        (1,) * (2 - len(sizes)) + tuple(sizes) for sizes in (layer.kernel_size, layer.dilation, layer.stride)
    )
    patches = F.unfold(images, kernel, dilation, 0, stride)
    return patches.view(len(x), layer.groups, -1, patches.shape[2])

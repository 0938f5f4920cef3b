"""Gather the distribution of a tensor's values, batch by batch, in bounded memory; ``scale_search.py`` decides on it.

Values are counted in a histogram whose bins are a power of two wide. When a batch holds a larger magnitude than all
before it, neighbouring bins merge until it fits. Both are exact in float32, so that the counts do not depend on how the
samples were divided into batches, nor on their order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qkd_deploy.errors import UserError

_BINS = 1 << 15
"""Bins on each side of zero: at least 64 for each code of the finest grid (8 bits, unsigned) at its widest."""
_SMALLEST_EXPONENT = -60
"""Magnitudes below 2^-60 share few bins: they are far below any scale, and bins stay representable in float32."""
_ROW_SAMPLE = 4096
"""Values of one sample (or of one output channel) that enter the histogram, at most."""


class HistogramObserver:
    """Count the values of all batches seen in a histogram, with their largest and mean magnitude.

    Bin ``k > 0`` counts the values in ``((k - 1) * width, k * width]``, bin ``-k`` their mirror image, and bin 0 exact
    zeros. Of long rows (dimension 0: samples, output channels) only evenly spaced values are counted; the largest and
    the mean magnitude are those of all values.

    Attributes:
        count: values seen.
        largest: largest magnitude.
        total: sum of magnitudes.
    """

    def __init__(self, *, signed: bool = True) -> None:
        """Start empty; an unsigned observer takes negative values for zeros, as an unsigned grid does."""
        self.signed = signed
        self.count = 0
        self.largest = 0.0
        self.total = 0.0
        self._exponent = _SMALLEST_EXPONENT
        self._counts = torch.zeros(2 * _BINS + 1, dtype=torch.int64)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Count the values of a tensor of any shape, on any device.

        Raises:
            UserError: there is a value that is not finite.
        """
        if not values.numel():
            return
        values = values.detach().float()
        low, high = ends_of(values)
        if low < 0 and not self.signed:
            values, low = values.clamp(min=0), 0.0
        largest = max(-low, high, 0.0)
        self.largest = max(self.largest, largest)
        self.count += values.numel()
        self.total += float((values if low >= 0 else values.abs()).mean()) * values.numel()
        self._widen(math.frexp(largest)[1])
        scaled = _sample(values) * (1.0 / self._width)  # the width is a power of two: no rounding
        bins = scaled.clamp(min=0).ceil_() + scaled.clamp(max=0).floor_()
        self._counts += torch.bincount((bins + _BINS).int().flatten(), minlength=2 * _BINS + 1).cpu()

    @property
    def mean(self) -> float:
        """Mean magnitude of all values."""
        return self.total / self.count

    @property
    def _width(self) -> float:
        return 2.0**self._exponent / _BINS

    def _widen(self, exponent: int) -> None:
        """Extend the histogram to ``2^exponent`` at least: bins ``2^n k - 2^n + 1 ... 2^n k`` become bin ``k``."""
        if exponent <= self._exponent:
            return
        bins = torch.arange(-_BINS, _BINS + 1)
        merged = torch.ceil(bins.abs() / 2.0 ** (exponent - self._exponent)).long() * bins.sign()
        self._counts = torch.zeros_like(self._counts).index_add_(0, merged + _BINS, self._counts)
        self._exponent = exponent

    def distribution(self) -> tuple[Tensor, Tensor]:
        """Return float32 values in rising order, one per occupied bin (its middle), and how often each occurs."""
        bins = self._counts.nonzero().flatten() - _BINS
        middles = (bins - 0.5 * bins.sign()) * self._width
        return middles.float(), self._counts[bins + _BINS].float()

    def quantile(self, share: float) -> float:
        """Return the magnitude that ``share`` of the values other than zero do not exceed, to within one bin.

        Where only zeros were counted, it is the largest magnitude.
        """
        magnitudes = self._counts[_BINS + 1 :] + self._counts[:_BINS].flip(0)
        wanted = math.ceil(share * int(magnitudes.sum()))
        place = int(torch.searchsorted(magnitudes.cumsum(0), wanted)) + 1
        return min(place * self._width, self.largest) if wanted else self.largest


def ends_of(values: Tensor) -> tuple[float, float]:
    """Find the least and the largest of some values.

    Raises:
        UserError: there is a value that is not finite.
    """
    low, high = (float(end) for end in torch.aminmax(values))  # of NaN both are NaN
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("cannot initialise a step from values that are not finite; check the weights and the batch")
    return low, high


def _sample(values: Tensor) -> Tensor:
    """Take evenly spaced values of each row.

    The stride shares no factor with the length of a row: otherwise it would visit the same channel, or the same column,
    again and again.
    """
    rows = values.reshape(values.shape[0] if values.dim() else 1, -1)
    length = rows.shape[1]
    stride = -(-length // _ROW_SAMPLE)
    while stride > 1 and math.gcd(stride, length) > 1:
        stride += 1
    return rows[:, ::stride]

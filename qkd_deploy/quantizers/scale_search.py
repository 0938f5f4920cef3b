"""Choose the first scale of a quantizer from one tensor, or from an observer that has seen many batches.

``observer.py`` gathers; this file decides. The methods:

- ``mse``: the scale with the smallest squared rounding error, searched below ``minmax`` (the default: the published two
  are far off at 2 and 3 bits and for 8-bit activations respectively).
- ``percentile``: as ``minmax``, but a share of ``10^(-bits / 2)`` of the values other than zero lies beyond: 0.01 % at
  8 bits, 1 % at 4, 10 % at 2, which is close to where the squared error of a normal distribution is smallest. (Zeros
  do not count because every grid holds them: behind a ReLU they are half of all values.)
- ``lsq``: ``2 * mean|v| / sqrt(hi)`` (Esser et al. 2020, arXiv:1902.08153).
- ``minmax``: the largest magnitude maps to the largest code (QKD's reviews; arXiv:1911.12491).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qkd_deploy.bits import SCALE_FLOOR, TensorSpec
from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.observer import HistogramObserver, ends_of

_CANDIDATES = 64
"""Scales that ``mse`` tries; neighbours are 6 % apart."""
_NARROWEST = 10.0**-1.7
"""The smallest of them, as a share of ``minmax``: 2 %."""


def initial_scale(v: Tensor, spec: TensorSpec, method: str = "mse") -> float:
    """Choose the first scale for a tensor of any shape on the grid ``spec``.

    Raises:
        UserError: an unknown method, or values that are not finite.
    """
    require_method(method)
    observer = HistogramObserver(signed=spec.signed)
    observer.update(v)
    return scale_from(observer, spec, method)


def require_method(method: str) -> None:
    """Refuse a name that is none of ``METHODS``.

    Raises:
        UserError: it is none of them.
    """
    if method not in METHODS:
        raise UserError(f"unknown initialisation {method!r}; choose one of {', '.join(METHODS)}")


@torch.no_grad()
def channel_scales(v: Tensor, spec: TensorSpec, method: str = "mse") -> Tensor:
    """Choose the first scale of every output channel of some weights; ``v`` has the channels first, the result ``[C]``.

    A channel of zeros, which any scale represents, takes the mean of the others.

    Raises:
        UserError: an unknown method, or values that are not finite.
    """
    require_method(method)
    rows = v.detach().float().flatten(1)
    ends_of(rows)
    scales = _ROW_CHOOSERS[method](rows, spec).clamp_(min=SCALE_FLOOR)
    used = (rows != 0).any(1)
    usual = scales[used].mean() if bool(used.any()) else torch.tensor(1.0 / spec.hi)
    return torch.where(used, scales, usual)


def _least_squares_of_rows(rows: Tensor, spec: TensorSpec) -> Tensor:
    """Search each row as ``_least_squares`` does."""
    widest = _minmax_of_rows(rows, spec).clamp_(min=SCALE_FLOOR)
    best, least = widest, torch.full_like(widest, math.inf)
    for ratio in torch.logspace(0.0, math.log10(_NARROWEST), _CANDIDATES):
        scales = widest * ratio
        error = torch.round(rows / scales[:, None]).clamp_(spec.lo, spec.hi).mul_(scales[:, None]).sub_(rows)
        errors = error.square_().sum(1)
        best, least = torch.where(errors < least, scales, best), torch.minimum(errors, least)
    return best


def _percentile_of_rows(rows: Tensor, spec: TensorSpec) -> Tensor:
    """Take the magnitude at the place in each sorted row that leaves the share beyond, of the values not zero."""
    magnitudes = rows.abs().sort(1).values
    used = (magnitudes > 0).sum(1)
    wanted = torch.ceil((1 - 10.0 ** (-spec.bits / 2)) * used).long()  # of them, the smallest
    place = rows.shape[1] - used + wanted - 1
    return magnitudes.gather(1, place.clamp(0, rows.shape[1] - 1)[:, None]).flatten() / spec.hi


def _lsq_of_rows(rows: Tensor, spec: TensorSpec) -> Tensor:
    return 2 * rows.abs().mean(1) / math.sqrt(spec.hi)


def _minmax_of_rows(rows: Tensor, spec: TensorSpec) -> Tensor:
    return rows.abs().amax(1) / spec.hi


@torch.no_grad()
def scale_from(observer: HistogramObserver, spec: TensorSpec, method: str) -> float:
    """Choose the first scale on the grid ``spec`` for the values in ``observer``; ``method`` is one of ``METHODS``."""
    if observer.largest == 0.0:
        return 1.0 / spec.hi  # a tensor of zeros: any scale represents it
    return max(_CHOOSERS[method](observer, spec), SCALE_FLOOR)


def _least_squares(observer: HistogramObserver, spec: TensorSpec) -> float:
    """Search between 100 % and 2 % of ``minmax`` on a log grid; ``argmin`` takes the widest of equally good scales."""
    widest = max(_minmax(observer, spec), SCALE_FLOOR)
    values, counts = observer.distribution()
    ratios = torch.logspace(0.0, math.log10(_NARROWEST), _CANDIDATES)
    errors = []
    for ratio in ratios:
        scale = widest * ratio
        rounded = torch.round(values / scale).clamp_(spec.lo, spec.hi).mul_(scale)
        errors.append((rounded - values).square_().mul_(counts).sum())
    best: float = ratios[torch.stack(errors).argmin()].item()
    return widest * best


def _percentile(observer: HistogramObserver, spec: TensorSpec) -> float:
    clipped: float = 10.0 ** (-spec.bits / 2)
    return observer.quantile(1 - clipped) / spec.hi


def _lsq(observer: HistogramObserver, spec: TensorSpec) -> float:
    return 2 * observer.mean / math.sqrt(spec.hi)


def _minmax(observer: HistogramObserver, spec: TensorSpec) -> float:
    return observer.largest / spec.hi


_CHOOSERS: Mapping[str, Callable[[HistogramObserver, TensorSpec], float]] = {
    "mse": _least_squares,
    "percentile": _percentile,
    "lsq": _lsq,
    "minmax": _minmax,
}

_ROW_CHOOSERS: Mapping[str, Callable[[Tensor, TensorSpec], Tensor]] = {
    "mse": _least_squares_of_rows,
    "percentile": _percentile_of_rows,
    "lsq": _lsq_of_rows,
    "minmax": _minmax_of_rows,
}

METHODS = tuple(_CHOOSERS)
"""Names of the methods, the default first."""

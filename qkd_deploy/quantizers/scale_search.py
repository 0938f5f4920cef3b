"""Starting points for the steps, computed from one tensor or from the statistics of many.

- ``minmax``: the largest magnitude maps to the largest code (QKD's reviews; arXiv:1911.12491).
- ``percentile``: as ``minmax``, but a share of ``10^(-bits / 2)`` of the values other than zero lies beyond: 0.01 % at
  8 bits, 1 % at 4, 10 % at 2, which is close to where the squared error of a normal distribution is smallest. (Zeros
  do not count because every grid holds them: behind a ReLU they are half of all values.)
- ``lsq``: ``2 * mean|v| / sqrt(hi)`` (Esser et al. 2020, arXiv:1902.08153).
- ``mse``: the step with the smallest squared rounding error, searched below ``minmax`` (the default: the published two
  are far off at 2 and 3 bits and for 8-bit activations respectively).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qkd_deploy.bits import STEP_FLOOR, TensorSpec
from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.observer import HistogramObserver

METHODS = ("mse", "percentile", "lsq", "minmax")
_CANDIDATES = 64


def initial_step(v: Tensor, spec: TensorSpec, method: str = "mse") -> float:
    """The starting step for a tensor of any shape on the grid ``spec``.

    Raises:
        UserError: an unknown method, or values that are not finite.
    """
    require_method(method)
    statistics = HistogramObserver(signed=spec.signed)
    statistics.update(v)
    return step_from(statistics, spec, method)


def require_method(method: str) -> None:
    """Refuse what is none of ``METHODS``.

    Raises:
        UserError: it is not.
    """
    if method not in METHODS:
        raise UserError(f"unknown initialisation {method!r}; choose one of {', '.join(METHODS)}")


@torch.no_grad()
def step_from(statistics: HistogramObserver, spec: TensorSpec, method: str) -> float:
    """The starting step on the grid ``spec`` for the values in ``statistics``; ``method`` is one of ``METHODS``."""
    if statistics.largest == 0.0:
        return 1.0 / spec.hi  # a tensor of zeros: any step represents it
    if method == "lsq":
        return max(2 * statistics.total / statistics.count / math.sqrt(spec.hi), STEP_FLOOR)
    if method == "percentile":
        return max(statistics.quantile(1 - _clipped_share(spec)) / spec.hi, STEP_FLOOR)
    minmax = max(statistics.largest / spec.hi, STEP_FLOOR)
    return minmax if method == "minmax" else max(_least_squares(statistics, spec, minmax), STEP_FLOOR)


def _clipped_share(spec: TensorSpec) -> float:
    share: float = 10.0 ** (-spec.bits / 2)
    return share


def _least_squares(statistics: HistogramObserver, spec: TensorSpec, minmax: float) -> float:
    """Search the step between 100 % and 2 % of ``minmax`` on a log grid; of equally good ones the widest is taken."""
    values, counts = statistics.distribution()
    ratios = torch.logspace(0.0, -1.7, _CANDIDATES)
    errors = []
    for candidate in ratios:
        step = minmax * candidate
        rounded = torch.round(values / step).clamp_(spec.lo, spec.hi).mul_(step)
        errors.append((rounded - values).square_().mul_(counts).sum())
    best = int(torch.stack(errors).argmin())
    ratio: float = ratios[best].item()
    return minmax * ratio

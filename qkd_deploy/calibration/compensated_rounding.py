"""Choose the weights of one layer, on their grid, so that its outputs stay what they are in full precision.

With columns ``x`` of the quantized network, ``y`` of the network in full precision, and weights ``W`` of one output,
the mean squared error ``E|W y - Q x|^2`` is least over real ``Q`` for

    T = W + W E[(y - x) x'] (H + ridge)^-1,    H = E[x x'],

all centred, since a bias makes up for means (Li et al. 2025, "GPTAQ", arXiv:2504.02692, step by step; here in one
solution). What is left is ``(T - Q) H (T - Q)'``. Rounding one weight after the other, each remaining weight takes up
the error that those before it made (Frantar et al. 2023, "GPTQ", arXiv:2210.17323): of each column it needs one row
of the Cholesky factor of ``H^-1``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qkd_deploy.calibration.second_moments import SecondMoments

_RIDGE = 0.1
"""Of the mean variance: what keeps weights near their old values where few images say little."""
_DAMPING = 0.01
"""The same while rounding."""
_SMALLEST = 1e-10


def rounded_weight(weight: Tensor, moments: SecondMoments, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Choose weights ``codes * scale`` for one layer.

    Args:
        weight: in full precision, [G, outputs, d] for ``G`` groups.
        moments: of the layer's inputs.
        scale: of each output, [G, outputs].
        lo: smallest code.
        hi: largest code.

    Returns:
        codes times scale, float32, the shape of ``weight``.
    """
    exact = weight.double()
    pulled = exact @ moments.error_covariance @ torch.linalg.inv(_raised(moments.covariance, _RIDGE))
    order = moments.covariance.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    ordered = _take(_take(_raised(moments.covariance, _DAMPING), order, 2), order, 1)
    upper = torch.linalg.cholesky(torch.linalg.inv(ordered), upper=True).float()
    rounded = _round_in_turn(_take((exact + pulled).float(), order, 2), upper, scale, lo, hi)
    return _take(rounded, order.argsort(dim=1), 2)


def _round_in_turn(weight: Tensor, upper: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Round column after column of ``weight``, which is used up."""
    rounded = torch.empty_like(weight)
    for column in range(weight.shape[2]):
        present = weight[:, :, column]
        rounded[:, :, column] = (present / scale).round_().clamp_(lo, hi) * scale
        row = upper[:, column, column:]
        error = (present - rounded[:, :, column]) / row[:, :1]
        weight[:, :, column + 1 :].addcmul_(error.unsqueeze(2), row[:, None, 1:], value=-1)
    return rounded


def _raised(covariance: Tensor, share: float) -> Tensor:
    """Add a share of the mean variance to all variances, so that the matrix has an inverse."""
    mean = covariance.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=_SMALLEST)
    return covariance + share * mean.view(-1, 1, 1) * torch.eye(covariance.shape[1], device=mean.device)


def _take(matrices: Tensor, order: Tensor, dim: int) -> Tensor:
    """Reorder rows (``dim`` 1) or columns (``dim`` 2) of [G, rows, columns] by an order [G, d] of each group."""
    return matrices.gather(dim, order.unsqueeze(3 - dim).expand_as(matrices))

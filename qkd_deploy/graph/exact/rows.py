"""LayerNorm and Softmax over rows of codes, such that every CPU computes the same bits.

Sums are what runtimes compute in different orders. Here they are sums of integers below 2^24, which float32 holds
exactly in any order (LayerNorm), or sums that the runtime's kernel adds one by one (Softmax). Everything else is one
correctly rounded operation after the other, in the order and precision written here and in the exported graph.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LONGEST_ROW = 1024
"""Squares of codes within +-128 add up to 2^24 at most."""
_CENTER = 128
_EXACT = 2**24
_RESERVE = 5.0


def row_center(largest: int, length: int) -> int:
    """Choose what to subtract from stored codes up to ``largest``: 0 or 128, so that float32 holds the sum of squares.

    A shift changes no LayerNorm.
    """
    return 0 if largest**2 * length <= _EXACT else _CENTER


def layer_norm(stored: Tensor, center: int, eps: float, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Normalised rows in float32; ``stored`` are stored codes, ``eps`` counts squared steps."""
    c = stored - center
    n = c.shape[-1]
    total = c.sum(-1, keepdim=True)
    squares = (c * c).sum(-1, keepdim=True)
    mean = total / float(n)
    variance = (squares.double() * n - total.double() * total.double()) / n**2
    deviation = torch.sqrt(variance + eps).float()
    y = (c - mean) / deviation  # a product with 1 / deviation is rewritten to this by the runtime
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def eps_in_steps(eps: float, scale: float) -> float:
    """LayerNorm's eps for rows of codes: ``eps / scale^2``, float32."""
    return float(np.float32(eps / float(scale) ** 2))


def softmax_codes(stored: Tensor, scale: float) -> Tensor:
    """Codes of the softmax of the last dimension with step 1/256, not clipped: QLinearSoftmax.

    The runtime takes exponentials from a table, as if the largest code of the row were 255, and adds them one by one.
    """
    exponentials = torch.from_numpy(_exponentials(scale, stored.shape[-1])).to(stored.device)
    e = exponentials[(255 - (stored.amax(-1, keepdim=True) - stored)).long()]
    total = torch.zeros_like(e[..., 0])
    for column in e.unbind(-1):  # the order decides the last bit
        total = total + column
    return torch.round(e * 256.0 / total.unsqueeze(-1))


def _exponentials(scale: float, length: int) -> np.ndarray:
    largest = np.float32(math.log(np.finfo(np.float32).max / np.float32(length)))
    shift = max(0.0, float(largest) - _RESERVE) / scale
    return np.asarray(np.exp((np.arange(256) - 255 + shift) * scale).astype(np.float32))

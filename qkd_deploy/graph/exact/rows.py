"""LayerNorm and Softmax over rows of codes, such that every CPU computes the same bits.

Sums are what runtimes compute in different orders. Here they are sums of integers below 2^24 (of long rows 2^53), which
float32 (float64) holds exactly in any order (LayerNorm), or sums that the runtime's kernel adds one by one (Softmax).
Everything else is one correctly rounded operation after the other, in the order and precision written here and in the
exported graph.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

FLOAT32_ROW = 1024
"""Squares of codes within +-128 add up to 2^24 at most; those of longer rows are added in float64."""
LONGEST_ROW = 2**16
"""What is computed from the sums in float64 is exact, too."""
ALL_ZERO = 9
"""Bytes are 0 after so many halvings."""
MOST_STEPS = 2**20
"""Offsets of scores are no larger, in steps; a mask of minus infinity is as good as one of so many steps."""
_FINEST = -10
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
    squares = (c * c).sum(-1, keepdim=True, dtype=torch.float32 if n <= FLOAT32_ROW else torch.float64)
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


def halvings(scale: Tensor) -> Tensor:
    """How often the codes of scores are halved before offsets are added, so that their steps are no finer than 2^-10.

    A thousandth of a weight is less than its codes tell, and a scale of the weights that is free of ties is found among
    exponentials of no more than some thousand sums.
    """
    _, above = torch.frexp(scale)  # the next power of two
    return (_FINEST + 1 - above).clamp(min=0)


def sum_step(scale: Tensor) -> Tensor:
    """The step of scores, halved as often, and of their offsets."""
    return torch.ldexp(scale, halvings(scale))


def halved(codes: Tensor, times: Tensor) -> Tensor:
    """Codes over ``2^times``, rounded half up, as integers are divided; 0 from the ninth time on."""
    divisor = torch.ldexp(torch.ones_like(codes[..., :1]), times.clamp(max=ALL_ZERO))
    return torch.floor(codes / divisor + 0.5)


def whole_steps(offset: Tensor, step: Tensor) -> Tensor:
    """What is added to the codes of scores, in steps of theirs: float32 integers, for offsets in float32."""
    return torch.round((offset / step).clamp(-MOST_STEPS, MOST_STEPS))


def softmax_codes(stored: Tensor, scale: float) -> Tensor:
    """Codes of the softmax of the last dimension with step 1/256, not clipped: QLinearSoftmax.

    The runtime takes exponentials from a table, as if the largest code of the row were 255, and adds them one by one.
    """
    exponentials = torch.from_numpy(softmax_table(scale, stored.shape[-1])).to(stored.device)
    e = exponentials[(255 - (stored.amax(-1, keepdim=True) - stored)).long()]
    total = torch.zeros_like(e[..., 0])
    for column in e.unbind(-1):  # the order decides the last bit
        total = total + column
    return torch.round(e * 256.0 / total.unsqueeze(-1))


def softmax_table(scale: float, length: int) -> np.ndarray:
    """Exponentials of the 256 stored codes of rows of a length, as the runtime scales them, float32."""
    largest = np.float32(math.log(np.finfo(np.float32).max / np.float32(length)))
    shift = max(0.0, float(largest) - _RESERVE) / scale
    return np.asarray(np.exp((np.arange(256) - 255 + shift) * scale).astype(np.float32))

"""How much boxes overlap."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-7


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Compute the common area of boxes [..., 4], which broadcast."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Compute the area of boxes [..., 4]; 0 where a corner is on the wrong side."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the intersection over union of boxes [..., 4], which broadcast."""
    common = intersection(a, b)
    return common / (area(a) + area(b) - common).clamp(min=_EPSILON)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the overlap of boxes [..., 4] in -1..1; it falls with their distance too (Rezatofighi et al., 2019)."""
    common = intersection(a, b)
    union = (area(a) + area(b) - common).clamp(min=_EPSILON)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).prod(dim=-1).clamp(min=_EPSILON)
    return common / union - (hull - union) / hull

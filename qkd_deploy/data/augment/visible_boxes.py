"""Cut boxes where their image ends, and take those away of which too little is seen."""

from __future__ import annotations

import torch

from qkd_deploy.tasks.detection.targets import BOX, CLASS, PADDING

_LEAST_SHARE, _LEAST_SIDE = 0.1, 2.0
"""Share of its area and pixels of its sides that a box must keep."""


def seen_within(targets: torch.Tensor, corners: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Give boxes new corners, cut at the limits; those that are hardly seen become padding.

    Args:
        targets: float32 [N, M, 6].
        corners: where the boxes of the targets went, float32 [N, M, 4].
        limits: left, top, right and bottom of what is seen, [N, 4] or [1, 4].

    Returns:
        float32 [N, M, 6].
    """
    low, high = limits[:, None, :2], limits[:, None, 2:]
    cut = torch.cat([corners[:, :, :2].clamp(low, high), corners[:, :, 2:].clamp(low, high)], dim=2)
    sides = cut[:, :, 2:] - cut[:, :, :2]
    before = (corners[:, :, 2:] - corners[:, :, :2]).prod(dim=2)
    seen = (sides.amin(dim=2) >= _LEAST_SIDE) & (sides.prod(dim=2) >= _LEAST_SHARE * before)
    changed = targets.clone()
    changed[:, :, BOX] = cut
    gone = ~(seen & (targets[:, :, CLASS] != PADDING))
    changed.masked_fill_(gone[:, :, None], 0)
    changed[:, :, CLASS].masked_fill_(gone, PADDING)
    return changed

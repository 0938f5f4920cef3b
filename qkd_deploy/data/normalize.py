"""Normalise pixels, for all data sets alike."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from qkd_deploy.pixels.normalization import CENTERED, Normalization


def normalize(images: Tensor, normalization: Normalization = CENTERED) -> Tensor:
    """Compute ``(pixel / divisor - mean) / std`` as float32, in the shape of ``images`` (uint8 [N, C, H, W]).

    In the order in which torchvision and timm compute it, so that a network sees the very numbers that it was trained
    on. ``(pixel - 128) / 64`` is exact: a difference of two integers below 256 and a division by a power of two do not
    round.
    """
    floats = images.to(torch.float32)
    if normalization.divisor != 1:
        floats.div_(normalization.divisor)
    mean, std = (_by_channel(values, images.device) for values in (normalization.mean, normalization.std))
    return floats.sub_(mean).div_(std)


@lru_cache(maxsize=16)
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    shape = (-1, 1, 1) if len(values) > 1 else ()
    return torch.tensor(values, dtype=torch.float32, device=device).view(shape)

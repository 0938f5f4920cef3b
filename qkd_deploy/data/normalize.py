"""Normalise pixels, for all data sets alike."""

from __future__ import annotations

import torch

MEAN = 128.0
STD = 64.0


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Compute ``(pixel - 128) / 64`` as float32, in the shape of ``images`` (uint8).

    Exact: a difference of two integers below 256 and a division by a power of two do not round, so an 8-bit
    quantizer of scale 1/64 and zero point 128 gives the raw pixel back.
    """
    return images.to(torch.float32).sub_(MEAN).div_(STD)

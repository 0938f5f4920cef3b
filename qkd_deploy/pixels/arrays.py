"""Normalise pixels in NumPy arrays, and find the pixels that were normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkd_deploy.pixels.normalization import Normalization


def normalized(pixels: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Normalise pixels [N, C, ...]; float32, each of the operations rounded as PyTorch rounds it."""
    mean, std = (_by_channel(values, pixels) for values in (normalization.mean, normalization.std))
    return np.asarray((pixels.astype(np.float32) / np.float32(normalization.divisor) - mean) / std)


def pixels_of(values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Find the pixels uint8 that are nearest to normalised values, float32 [N, C, ...]."""
    mean, std = (_by_channel(numbers, values) for numbers in (normalization.mean, normalization.std))
    pixels = np.rint((values * std + mean) * np.float32(normalization.divisor))
    return np.asarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _by_channel(values: Sequence[float], like: np.ndarray) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, *[1] * (like.ndim - 2))

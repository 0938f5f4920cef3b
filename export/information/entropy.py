"""How much of the information of values their codes keep, slice by slice: Shannon's entropy of both."""

from __future__ import annotations

import numpy as np

FEWEST_VALUES = 32
"""Of a slice, for an entropy that means something."""
_LEAST_BITS = 1.0
"""Of information in the values of a slice; what is constant, or nearly always, cannot lose any."""


def slices_of(array: np.ndarray, axis: int) -> np.ndarray:
    """The values of an array ``[N, ...]`` by their place along an axis, ``[places, values]``."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def axes_of(array: np.ndarray) -> tuple[int, ...]:
    """Axes along which the parts of a tensor may lie: its channels, and its last one (points and scores, tokens)."""
    return tuple(sorted({1, array.ndim - 1})) if array.ndim > 1 else ()


def kept_information(values: np.ndarray, codes: np.ndarray, levels: int) -> np.ndarray:
    """The share of the information of each row that its codes keep.

    1 where a row is too short, (nearly) constant, or not finite.

    Information is Shannon's entropy. That of the values is measured on a grid of the row's own, with as many levels
    between its smallest and largest value, so that nothing but the size of the row's values beside others tells.

    Args:
        values: what was rounded, float ``[rows, values]``.
        codes: what it became, integers from 0 to ``levels`` - 1, of the same shape.
        levels: codes that there are.
    """
    rows, length = values.shape
    if length < FEWEST_VALUES:
        return np.ones(rows)
    values = np.where(np.isfinite(values).all(1, keepdims=True), values, 0).astype(np.float64)
    lowest = values.min(1, keepdims=True)
    span = values.max(1, keepdims=True) - lowest
    own = np.rint((values - lowest) / np.where(span > 0, span, 1) * (levels - 1)).astype(np.int64)
    possible, kept = _entropy(own, levels), _entropy(codes.clip(0, levels - 1), levels)
    return np.where(possible < _LEAST_BITS, 1.0, np.maximum(kept, 0) / np.maximum(possible, _LEAST_BITS))


def _entropy(numbers: np.ndarray, levels: int) -> np.ndarray:
    """Bits of each row of numbers from 0 to ``levels`` - 1."""
    rows, length = numbers.shape
    places = numbers + levels * np.arange(rows)[:, None]
    shares = np.bincount(places.ravel(), minlength=rows * levels).reshape(rows, levels) / length
    return np.asarray(-np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=1))

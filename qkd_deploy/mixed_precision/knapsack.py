"""The multiple-choice knapsack problem: one option for each item, least loss in all, costs within a limit."""

from __future__ import annotations

import numpy as np

_BINS = 4096
"""Grid on which costs are counted: each row's cost is rounded up to a 4096th of the room that is to be shared out."""


def least_loss(costs: np.ndarray, losses: np.ndarray, limit: float) -> np.ndarray | None:
    """Choose one column for each row, so that losses add up to the least while costs stay within ``limit``.

    Solved by dynamic programming over the room that the rows so far may take. Costs are rounded up to a grid, so that
    the limit always holds. Of equal losses the first column is taken.

    Args:
        costs: [rows, columns], not negative.
        losses: [rows, columns].
        limit: on the sum of the chosen costs.

    Returns:
        the columns int64 [rows], or None where even the smallest costs are too much.
    """
    free = np.asarray(losses.argmin(axis=1))
    if costs[np.arange(len(costs)), free].sum() <= limit:
        return free
    least = costs.min(axis=1, keepdims=True)
    room = limit - float(least.sum())
    if room < 0:
        return None
    # only what an option costs above its row's least one takes room; 1e-9 forgives rounding of exact multiples
    bins = np.ceil((costs - least) / max(room / _BINS, 1e-12) - 1e-9).astype(np.int64).clip(max=_BINS + 1)
    return _trace_back(bins, _best_columns(bins, losses))


def _best_columns(bins: np.ndarray, losses: np.ndarray) -> list[np.ndarray]:
    """Find for each row the column to take by the room [bins + 1] that this row and those before it may take."""
    best = np.zeros(_BINS + 1)  # the smallest loss of the rows so far, by room
    taken = []
    for row_bins, row_losses in zip(bins, losses, strict=True):
        options = np.full((len(row_bins), _BINS + 1), np.inf)
        for column, (used, loss) in enumerate(zip(row_bins, row_losses, strict=True)):
            if used <= _BINS:
                options[column, used:] = best[: _BINS + 1 - used] + loss
        taken.append(options.argmin(axis=0))
        best = options.min(axis=0)
    return taken


def _trace_back(bins: np.ndarray, taken: list[np.ndarray]) -> np.ndarray:
    """Follow the choices from the last row with all the room to the first one with what is left."""
    left, picked = _BINS, np.zeros(len(bins), np.int64)
    for row in reversed(range(len(bins))):
        picked[row] = taken[row][left]
        left -= int(bins[row, picked[row]])
    return picked

"""One option for each of several items, so that losses add up to the least while costs stay within a limit."""

from __future__ import annotations

import numpy as np

_BINS = 4096


def cheapest(costs: np.ndarray, losses: np.ndarray, limit: float) -> np.ndarray | None:
    """One column for each row, so that the losses add up to the least while the costs stay within ``limit``.

    Costs are rounded up to a grid of some thousandths of what is to be shared out, so that the limit always holds.
    Of equal losses the first column is taken.

    Returns:
        the columns, or None where even the smallest costs are too much.
    """
    free = np.asarray(losses.argmin(axis=1))
    if costs[np.arange(len(costs)), free].sum() <= limit:
        return free
    least = costs.min(axis=1, keepdims=True)
    room = limit - float(least.sum())
    if room < 0:
        return None
    bins = np.ceil((costs - least) / max(room / _BINS, 1e-12) - 1e-9).astype(np.int64).clip(max=_BINS + 1)
    best = np.zeros(_BINS + 1)  # the smallest loss of the rows so far, by the room that they may take
    taken = []
    for row_bins, row_losses in zip(bins, losses, strict=True):
        options = np.full((len(row_bins), _BINS + 1), np.inf)
        for column, (used, loss) in enumerate(zip(row_bins, row_losses, strict=True)):
            if used <= _BINS:
                options[column, used:] = best[: _BINS + 1 - used] + loss
        taken.append(options.argmin(axis=0))
        best = options.min(axis=0)
    left, picked = _BINS, np.zeros(len(costs), np.int64)
    for row in reversed(range(len(costs))):
        picked[row] = taken[row][left]
        left -= int(bins[row, picked[row]])
    return picked

"""Search for the bits of each layer under a budget, on given losses and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qkd_deploy.bits import BitWidths
from qkd_deploy.errors import UserError
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.mixed_precision.knapsack import least_loss

_ATTEMPTS = 12
"""Models that are built at most; the limit of the sum over layers is drawn in after each."""


@dataclass(frozen=True)
class Choice:
    """The bits that a search chose, with their loss and cost.

    Attributes:
        budget: the one that was met.
        bits_for: bits of every layer that was free to be chosen, by module.
        loss: the summed sensitivities.
        predicted, cost: of the model, as the sum over its layers and as it really is: bytes or bit operations.
        limit: the budget in the same unit.
        widest: the cost with the widest bits everywhere.
    """

    budget: Budget
    bits_for: dict[str, str]
    loss: float
    predicted: float
    cost: float
    limit: float
    widest: float

    def in_words(self) -> str:
        """Say the cost of the model beside the predicted one and that of the widest bits."""
        found, expected = self.budget.show(self.cost), self.budget.show(self.predicted)
        return f"{self.budget.text}: {found} ({expected} predicted), {self.budget.show(self.widest)} at the widest bits"

    def overrides(self, base: str) -> dict[str, str]:
        """Select the layers that have other bits than ``base``."""
        same = str(BitWidths.parse(base))
        return {module: bits for module, bits in self.bits_for.items() if bits != same}

    def options(self, base: str) -> list[str]:
        """List the command-line options that repeat the choice by hand, where ``--bits`` are ``base``."""
        words = (word for pair in self.overrides(base).items() for word in ("--bits-for", "=".join(pair)))
        return ["--bits", base, *words]


class BitSearch:
    """Choose bits for some modules under a budget.

    Args:
        free: the modules.
        widths: to choose from, the widest first.
        budget: of the model.
        cost: computes the cost of the model with these bits by module.
    """

    def __init__(
        self, free: list[str], widths: list[BitWidths], budget: Budget, cost: Callable[[dict[str, str]], float]
    ) -> None:
        self._free, self._widths, self._budget, self._cost = free, widths, budget, cost

    def best(self, losses: np.ndarray, costs: np.ndarray) -> Choice:
        """Choose the bits with the smallest summed losses.

        Args:
            losses: float [modules, widths].
            costs: of the modules themselves, float [modules, widths].

        Raises:
            UserError: no choice is within the budget.
        """
        uniform = np.array([self._cost(self._bits(np.full(len(self._free), i))) for i in range(len(self._widths))])
        # what the layers do not explain (nodes, tables, layers that are not free) is spread evenly over them
        whole = costs + (uniform - costs.sum(0)) / len(self._free)
        widest = float(uniform[0])
        limit = self._budget.amount(widest)
        picked, real = self._within(whole, losses, limit) or self.smallest(costs)
        rows = np.arange(len(picked))
        loss, predicted = float(losses[rows, picked].sum()), float(whole[rows, picked].sum())
        return Choice(self._budget, self._bits(picked), loss, predicted, float(real), limit, widest)

    def _within(self, costs: np.ndarray, losses: np.ndarray, limit: float) -> tuple[np.ndarray, float] | None:
        """Draw in the limit on the sum over layers until the model itself is within it; None where that fails."""
        aim = limit
        for _ in range(_ATTEMPTS):
            picked = least_loss(costs, losses, aim)
            if picked is None:
                return None
            real = self._cost(self._bits(picked))
            if real <= limit:
                return picked, real
            aim -= real - limit
        return None

    def smallest(self, costs: np.ndarray) -> tuple[np.ndarray, float]:
        """Find the smallest model, as columns of ``costs``, with its real cost.

        Raises:
            UserError: it is beyond the budget.
        """
        picked = np.asarray(costs.argmin(axis=1))
        real = self._cost(self._bits(picked))
        limit = self._budget.amount(self._cost(self._bits(np.zeros_like(picked))) if self._budget.relative else 0)
        if real > limit:
            show = self._budget.show
            raise UserError(
                f"{self._budget.text} cannot be met: that is {show(limit)}, and the smallest possible with these bits "
                f"is {show(real)}; allow more, or offer fewer bits (--auto-bits-from)"
            )
        return picked, real

    def _bits(self, picked: np.ndarray) -> dict[str, str]:
        return {module: str(self._widths[i]) for module, i in zip(self._free, picked, strict=True)}

"""The search for bits under a budget, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qkd_deploy.bits import BitWidths
from qkd_deploy.errors import UserError
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.mixed_precision.knapsack import cheapest

_ATTEMPTS = 12


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        budget: what it had to meet.
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
        """What the model costs, and what was predicted."""
        found, expected = self.budget.show(self.cost), self.budget.show(self.predicted)
        return f"{self.budget.text}: {found} ({expected} predicted), {self.budget.show(self.widest)} at the widest bits"

    def overrides(self, base: str) -> dict[str, str]:
        """Bits of the layers that have others than ``base``."""
        same = str(BitWidths.parse(base))
        return {module: bits for module, bits in self.bits_for.items() if bits != same}

    def options(self, base: str) -> list[str]:
        """The command-line options that repeat the choice by hand, where ``--bits`` are ``base``."""
        words = (word for pair in self.overrides(base).items() for word in ("--bits-for", "=".join(pair)))
        return ["--bits", base, *words]


class BitSearch:
    """Choices for some modules under a budget.

    Args:
        free: the modules.
        widths: to choose from, the widest first.
        budget: what the model may cost.
        cost: of the model with these bits by module.
    """

    def __init__(
        self, free: list[str], widths: list[BitWidths], budget: Budget, cost: Callable[[dict[str, str]], float]
    ) -> None:
        self._free, self._widths, self._budget, self._cost = free, widths, budget, cost

    def best(self, losses: np.ndarray, costs: np.ndarray) -> Choice:
        """The choice with the smallest losses [modules, widths]; ``costs`` are those of the modules themselves.

        Raises:
            UserError: no choice is within the budget.
        """
        uniform = np.array([self._cost(self._bits(np.full(len(self._free), i))) for i in range(len(self._widths))])
        # what the layers do not explain (nodes, tables, layers that are not free) is spread evenly over them
        whole = costs + (uniform - costs.sum(0)) / len(self._free)
        widest = float(uniform[0])
        limit = aim = self._budget.amount(widest)
        found: tuple[np.ndarray, float] | None = None
        for _ in range(_ATTEMPTS):  # draw the limit in until the model itself is within the budget
            picked = cheapest(whole, losses, aim)
            real = None if picked is None else self._cost(self._bits(picked))
            if picked is None or real is None:
                break
            if real <= limit:
                found = picked, real
                break
            aim -= real - limit
        picked, real = found or self.smallest(costs)
        rows = np.arange(len(picked))
        loss, predicted = float(losses[rows, picked].sum()), float(whole[rows, picked].sum())
        return Choice(self._budget, self._bits(picked), loss, predicted, float(real), limit, widest)

    def smallest(self, costs: np.ndarray) -> tuple[np.ndarray, float]:
        """The smallest model, as columns of ``costs``, and what it costs.

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
                f"is {show(real)}; allow more, or offer fewer bits"
            )
        return picked, real

    def _bits(self, picked: np.ndarray) -> dict[str, str]:
        return {module: str(self._widths[i]) for module, i in zip(self._free, picked, strict=True)}

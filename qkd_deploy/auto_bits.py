"""Bits for each layer under a budget: the choice whose summed sensitivities are smallest.

What a layer costs in sensitivity is measured with every other layer in full precision (``sensitivity``), and the losses
of a choice are added up. Among all choices within the budget the one with the smallest sum is found (``knapsack``). The
size of a file is not quite the sum over its layers, so that files are really built, and the limit is drawn in until the
file itself is within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkd_deploy.bits import BitWidths
from qkd_deploy.budget import Budget
from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepare import PreparedModel
from qkd_deploy.knapsack import cheapest
from qkd_deploy.layer_costs import bit_operations, layer_costs, weight_layers
from qkd_deploy.sensitivity import sensitivity

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


def choose_bits(
    prepare: Callable[[str, Mapping[str, str]], PreparedModel],
    data: Any,
    budget: Budget,
    candidates: Sequence[str],
    *,
    base: str,
    images: int,
    measure: Callable[[PreparedModel], float],
    progress: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Choose bits for every layer that neither an override nor the first and last layers' bits decide.

    Args:
        prepare: the network at some bits, and with bits of further modules.
        data: as for ``sensitivity``; training data, or the choice would know what it is judged by.
        budget: what the model may cost.
        candidates: bits to choose from.
        base: bits of the network, as for ``prepare``.
        images: of ``data``, to measure sensitivity on.
        measure: bytes of the ONNX file of a prepared model.
        progress: receives lines about what is being done.

    Raises:
        UserError: fewer than two candidates, no free layer, or a budget that no choice meets.
    """
    widest, widths, free = _open(prepare, candidates)
    progress(f"sensitivity of {len(free)} layers at {', '.join(map(str, widths))} on {images} images")
    losses = _losses(widest, data, widths, free, images)
    cost = measure if budget.kind == "size" else bit_operations
    search = _Search(free, widths, budget, lambda bits_for: cost(prepare(base, bits_for)))
    return search.best(losses, _layer_costs(widest, budget, widths, free))


def require_possible(
    prepare: Callable[[str, Mapping[str, str]], PreparedModel],
    budget: Budget,
    candidates: Sequence[str],
    *,
    base: str,
    measure: Callable[[PreparedModel], float],
) -> None:
    """Refuse what ``choose_bits`` would, before anything is trained; arguments as there.

    Raises:
        UserError: as ``choose_bits``.
    """
    widest, widths, free = _open(prepare, candidates)
    cost = measure if budget.kind == "size" else bit_operations
    search = _Search(free, widths, budget, lambda bits_for: cost(prepare(base, bits_for)))
    search.smallest(_layer_costs(widest, budget, widths, free))


def _open(
    prepare: Callable[[str, Mapping[str, str]], PreparedModel], candidates: Sequence[str]
) -> tuple[PreparedModel, list[BitWidths], list[str]]:
    """The network at the widest bits, the bits to choose from, and the modules to choose for."""
    widths = sorted({BitWidths.parse(text) for text in candidates}, key=lambda w: (-w.weight, -w.activation))
    if len(widths) < 2:
        raise UserError("there is nothing to choose from; give at least two different bits, such as w8a8,w4a4")
    uniform = {bits: prepare(str(bits), {}) for bits in widths}
    free = _free(uniform)
    if not free:
        raise UserError("every layer has its bits already, by --bits-for or as first or last layer; leave some open")
    return uniform[widths[0]], widths, free


def _free(uniform: Mapping[BitWidths, PreparedModel]) -> list[str]:
    """Modules that have the network's bits wherever they are called, whatever these are."""
    first = next(iter(uniform.values()))
    return [
        module
        for module, nodes in weight_layers(first).items()
        if all(prepared.layer_bits[node.name] == bits for bits, prepared in uniform.items() for node in nodes)
    ]


def _losses(prepared: PreparedModel, data: Any, widths: list[BitWidths], free: list[str], images: int) -> np.ndarray:
    """Losses [layers, widths]; what falls by chance counts as no loss."""
    found = sensitivity(prepared, data, widths, images=images)
    known = {(layer.module, layer.bits): layer.loss for layer in found.layers}
    return np.array([[max(known[module, str(bits)], 0.0) for bits in widths] for module in free])


def _layer_costs(prepared: PreparedModel, budget: Budget, widths: list[BitWidths], free: list[str]) -> np.ndarray:
    """What the layers themselves cost [layers, widths]."""
    own = layer_costs(prepared)
    if budget.kind == "size":
        return np.array([[float(own[module].packed(bits)) for bits in widths] for module in free])
    return np.array([[float(own[module].macs * bits.weight * bits.activation) for bits in widths] for module in free])


class _Search:
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

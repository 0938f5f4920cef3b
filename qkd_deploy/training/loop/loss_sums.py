"""Means of the loss terms over an epoch and all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from qkd_deploy.distill.phases import LossTerms, Role
from qkd_deploy.errors import UserError
from qkd_deploy.training.distribution import Processes


class LossSums:
    """Sums the loss terms on the device; reading them checks that they are finite.

    Args:
        where: the place in the run, for the message when they are not.
        instead: what may keep them so, for the same.
        processes: that train together.
    """

    def __init__(self, where: str, instead: str, processes: Processes) -> None:
        self._where, self._instead = where, instead
        self._processes = processes
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._count = 0

    def add(self, losses: Mapping[Role, LossTerms]) -> None:
        """Count the detached terms of one batch, by network and name."""
        self._count += 1
        for role, terms in losses.items():
            sums = self._sums.setdefault(role, {})
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value

    def means(self) -> dict[str, dict[str, float]]:
        """Means over the batches so far, and over all processes.

        Raises:
            UserError: one is not finite.
        """
        names = [(role, name) for role, terms in self._sums.items() for name in terms]
        stacked = torch.stack([self._sums[role][name].float() for role, name in names]) / self._count
        values = self._processes.mean(stacked).tolist()
        if not all(map(math.isfinite, values)):
            raise UserError(
                f"the loss is no longer finite {self._where}; train in another --out with {self._instead}, or with "
                "other images or starting weights"
            )
        means: dict[str, dict[str, float]] = {}
        for (role, name), value in zip(names, values, strict=True):
            means.setdefault(role, {})[name] = value
        return means

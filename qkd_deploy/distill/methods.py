"""The methods by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qkd_deploy.distill.kd import kd_phases
from qkd_deploy.distill.phases import MethodOptions, Phase, split_epochs
from qkd_deploy.distill.qat import qat_phases
from qkd_deploy.distill.qkd import qkd_phases
from qkd_deploy.errors import UserError


@dataclass(frozen=True)
class Method:
    """A named list of phases.

    Attributes:
        name: as given to ``--method``.
        build: from (epochs per phase, options) to the phases.
        ratio: how a single number of epochs is divided between the method's phases.
    """

    name: str
    build: Callable[[Sequence[int], MethodOptions], list[Phase]]
    ratio: tuple[int, ...] = (1,)

    def phases(self, epochs: Sequence[int], options: MethodOptions) -> list[Phase]:
        """The phases for ``epochs``: one number per phase, or any other count, whose sum is divided by ``ratio``.

        So the same ``epochs`` give every method the same total, which is what a fair comparison needs.

        Raises:
            UserError: a number is negative, or their sum is 0.
        """
        if not epochs or min(epochs) < 0 or sum(epochs) == 0:
            raise UserError(f"epochs {list(epochs)} do not describe a training run; give positive numbers")
        own = tuple(epochs) if len(epochs) == len(self.ratio) else split_epochs(sum(epochs), self.ratio)
        return self.build(own, options)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("qkd", qkd_phases, ratio=(30, 100, 70)),
        Method("kd", kd_phases),
        Method("qat", qat_phases),
    )
}


def method_named(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UserError: there is none; the message lists the methods and suggests the nearest.
    """
    if name in METHODS:
        return METHODS[name]
    close = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown method {name!r}; {hint}known methods: {', '.join(METHODS)}")

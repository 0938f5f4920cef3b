"""Look up methods by the names that users give: a new one is a file beside this one and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from qkd_deploy.distill.gslr import GslrOptions, gslr_phases
from qkd_deploy.distill.kd import kd_phases
from qkd_deploy.distill.phases import Phase, split_epochs
from qkd_deploy.distill.qat import qat_phases
from qkd_deploy.distill.qfd import QfdOptions, qfd_phases
from qkd_deploy.distill.qkd import QkdOptions, qkd_phases
from qkd_deploy.distill.sqakd import sqakd_phases
from qkd_deploy.errors import UserError, closest
from qkd_deploy.settings import Settings

OPEN = ("quantizer", "temperature", "soft_loss")
"""Options whose default stands for what goes with the method."""


@dataclass(frozen=True, kw_only=True)
class MethodOptions(QkdOptions, GslrOptions, QfdOptions):
    """The options of all methods; each reads its own."""


@dataclass(frozen=True)
class Method:
    """A named list of phases.

    Attributes:
        name: as given to ``--method``.
        summary: what is special about it, in a few words.
        build: makes the phases from the epochs per phase of the student, and the options.
        shares: the phases in which the student learns, with their shares of its epochs.
        teacher_is_student: the teacher has the student's architecture, and the student starts from its weights.
        quantizer, temperature, soft_loss: defaults that go with the method.
        quantized_feature: the teacher's feature is quantized.
    """

    name: str
    summary: str
    build: Callable[[Sequence[int], MethodOptions], list[Phase]]
    shares: Mapping[str, int]
    teacher_is_student: bool = False
    quantizer: str = "interval"
    temperature: float = 2.0
    soft_loss: float = 1.0
    quantized_feature: bool = False

    def left_open(self, options: Settings) -> dict[str, Any]:
        """The method's values for what the options leave to it, by name."""
        names = [name for name in OPEN if getattr(options, name) == getattr(type(options), name)]
        return {name: getattr(self, name) for name in names}

    def phases(self, epochs: Sequence[int], options: MethodOptions, only: Sequence[str] = ()) -> list[Phase]:
        """List the phases for ``epochs``; one of 0 epochs is left out.

        Args:
            epochs: one number per phase, or any other count, whose sum is divided by ``shares``. So the same
                ``epochs`` give every method the same total, which is what a fair comparison needs.
            options: of all methods.
            only: phases to keep, which then share all the epochs (ablations); empty keeps all.

        Raises:
            UserError: a number is negative, their sum is 0, or ``only`` names a phase that the method lacks.
        """
        if not epochs or min(epochs) < 0 or sum(epochs) == 0:
            raise UserError(f"epochs {list(epochs)} do not describe a training run; give positive numbers")
        kept = self._kept(only)
        if len(epochs) == len(kept):
            own = tuple(epochs)
        else:
            own = split_epochs(sum(epochs), [self.shares[name] for name in kept])
        lengths = dict(zip(kept, own, strict=True))
        phases = self.build([lengths.get(name, 0) for name in self.shares], options)
        return [phase for phase in phases if phase.epochs > 0]

    def _kept(self, only: Sequence[str]) -> list[str]:
        for name in only:
            if name not in self.shares:
                hint = closest(name, self.shares, then=f"its phases: {', '.join(self.shares)}")
                raise UserError(f"{self.name} has no phase {name!r}; {hint}")
        return [name for name in self.shares if name in only or not only]


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("qkd", "three phases", qkd_phases, {"self-study": 30, "co-study": 100, "tutor": 70}),
            Method(
                "sqakd",
                "label-free",
                sqakd_phases,
                {"label-free": 1},
                teacher_is_student=True,
                quantizer="ewgs",
                temperature=4.0,
            ),
            Method("gslr", "decreasing soft loss", gslr_phases, {"distillation": 1}, soft_loss=0.5),
            Method("qfd", "quantized features", qfd_phases, {"distillation": 1}, quantized_feature=True),
            Method("kd", "fixed teacher", kd_phases, {"distillation": 1}),
            Method("qat", "labels only", qat_phases, {"labels": 1}),
        )
    }
)


def method_named(name: str) -> Method:
    """Look up the method called ``name``.

    Raises:
        UserError: there is none; the message lists the methods and suggests the nearest.
    """
    if name in METHODS:
        return METHODS[name]
    hint = closest(name, METHODS, then=f"known methods: {', '.join(METHODS)}")
    raise UserError(f"unknown method {name!r}; {hint}")

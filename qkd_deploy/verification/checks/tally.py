"""Scores the outputs of all sides, batch by batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.tasks.classification import Classification, MeanScore
from qkd_deploy.tasks.task import Score
from qkd_deploy.verification.checks.outputs import OutputsComparison
from qkd_deploy.verification.checks.readable import Outputs, logits_of, require_equal_shapes, require_readable, scoring
from qkd_deploy.verification.findings import Level

_IS_KEY = re.compile(r"(?!output(_\d+)?$)[A-Za-z_]\w*")
"""Names of outputs that are keys of a dict; tensors and tuples give ``output`` and ``output_0``, ``output_1`` ..."""
_TINY = 1e-9
"""Points that sums of floats may be off."""
_SIDES = ("preview", "frozen", "runtime")


class Tally:
    """Scores of all sides, and disagreements between the frozen model and the runtime.

    Args:
        outputs: compares those of the frozen model and the runtime.
        data: says how outputs are judged by labels; None where there are none.
    """

    def __init__(self, outputs: OutputsComparison, data: ImageDataset | None) -> None:
        self._outputs, self._data = outputs, data
        self._classifies = data is not None and data.metric is None and isinstance(data.task, Classification)
        self.images = 0
        self._scores: dict[str, Score] = {}
        self._disagreements = 0

    def add(self, sides: Mapping[str, Outputs], samples: int, labels: np.ndarray | None) -> None:
        """Count one batch of so many samples.

        Raises:
            UserError: the sides give outputs of other shapes, or not one for each label.
        """
        require_equal_shapes(sides, None if labels is None else samples)
        self.images += samples
        if "frozen" in sides:
            self._outputs.add(sides["frozen"], sides["runtime"], samples)
        if labels is not None:
            self._judge({side: self._answers(outputs) for side, outputs in sides.items()}, torch.from_numpy(labels))

    def _judge(self, answers: Mapping[str, Any], targets: Tensor) -> None:
        """Judge all sides; of classes and scores of single images it is known on how many two sides disagree."""
        assert self._data is not None
        if not self._scores and self._data.metric is None:
            require_readable(self._data, answers["runtime"], len(targets))
        single: dict[str, Tensor] = {}
        for side, given in answers.items():
            score = self._scores.setdefault(side, self._data.score())
            with scoring(self._data.task):
                if isinstance(score, MeanScore):
                    single[side] = score.judge(given, targets)
                else:
                    score.add(given, targets)
        if self._classifies:  # two wrong classes are a disagreement, too
            single = {side: self._data.task.decisions(given) for side, given in answers.items()}
        if "frozen" in single:
            self._disagreements += int((single["frozen"] != single["runtime"]).sum())

    def _answers(self, outputs: Outputs) -> Any:
        """Outputs as ``plain_answers`` has them: a tensor, a tuple, or, by name, what was a dict."""
        if self._classifies:
            return torch.from_numpy(logits_of(outputs[0]))
        tensors = dict(zip(self._outputs.exact, map(torch.from_numpy, outputs), strict=True))
        if all(map(_IS_KEY.fullmatch, tensors)):
            return tensors
        return tuple(tensors.values()) if len(tensors) > 1 else next(iter(tensors.values()))

    @property
    def is_exact(self) -> bool:
        """Whether nothing in float has a part in any output."""
        return all(self._outputs.exact.values())

    @cached_property
    def figures(self) -> dict[str, dict[str, float]]:
        """By side, what its score says of all images, in percent; not before the last batch."""
        return {side: score.figures() for side, score in self._scores.items()}

    @property
    def percent(self) -> dict[str, float]:
        """By side, the figure that stands for the rest."""
        return {side: next(iter(figures.values())) for side, figures in self.figures.items()}

    def outputs_result(self) -> Level:
        """Without labels: the outputs of the frozen model and the runtime, within the tolerance of float operators."""
        problems = self._outputs.problems()
        return Level("accuracy", "failed" if problems else "passed", tuple(problems or [self._outputs.summary()]))

    def accuracy_result(self, tolerance: float | None) -> Level:
        """With labels: frozen model and runtime must predict the same, the preview be within ``tolerance`` points."""
        problems = tuple(self._problems(tolerance))
        return Level(
            "accuracy", "failed" if problems else "passed", (*problems, self._summary() + self._beyond(tolerance))
        )

    def _problems(self, tolerance: float | None) -> Iterator[str]:
        if self._disagreements:
            counted = f"{self._disagreements} of {self.images} images"
            yield f"the frozen model and ONNX Runtime predict differently on {counted}"
        elif self.is_exact and "frozen" in self.figures and self.figures["frozen"] != self.figures["runtime"]:
            yield "the frozen model and ONNX Runtime reach other figures"
        yield from self._outputs.problems(exact_only=True)
        if tolerance is not None and self._distance > self._allowed(tolerance) + _TINY:
            yield (
                f"the float preview is more than {self._allowed(tolerance):.3g} points away from the integer model; "
                "where no code differs, and few images or rare classes make the measure jump, allow more by "
                "--tolerance (tolerance= in Python)"
            )

    @property
    def _distance(self) -> float:
        """Points between the preview and the integer model; 0 where one is missing."""
        percent = self.percent
        return abs(percent["preview"] - percent["frozen"]) if {"preview", "frozen"} <= percent.keys() else 0.0

    def _asked(self, tolerance: float) -> float:
        """The tolerance in points; where every image counts alike, it is rounded up to whole ones."""
        if self._scores["runtime"].uncertainty():
            return tolerance
        return float(100.0 * np.ceil(max(tolerance * self.images / 100 - _TINY, 0.0)) / self.images)

    def _allowed(self, tolerance: float) -> float:
        """Points for which the preview need not answer: what is tolerated, or what the measure cannot tell apart.

        The preview is a simulation in float, in which rounding ties fall otherwise; that each of its layers is right,
        and that the runtime computes the codes of the frozen model, is proven by the codes, whatever is allowed here.
        """
        return max(self._asked(tolerance), self._scores["runtime"].uncertainty() if tolerance else 0.0)

    def _beyond(self, tolerance: float | None) -> str:
        """Say so where the preview is further away than is tolerated, and only within the measure's uncertainty."""
        if not tolerance or not self._asked(tolerance) + _TINY < self._distance <= self._allowed(tolerance) + _TINY:
            return ""
        return (
            f" ({self._distance:.2f} points between preview and frozen, of which {self._allowed(tolerance):.2f} may be "
            "chance)"
        )

    def _summary(self) -> str:
        shown = []
        for name in self.figures["runtime"]:
            sides = [f"{side} {self.figures[side][name]:.2f} %" for side in _SIDES if side in self.figures]
            shown.append(f"{'' if self._classifies else f'{name}: '}{', '.join(sides)}")
        return f"{'; '.join(shown)} on {self.images} images"

"""Counts right predictions of all sides, batch by batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from qkd_deploy.data.metric import Metric, scores_of
from qkd_deploy.errors import UserError
from qkd_deploy.verification.checks.outputs import OutputsComparison
from qkd_deploy.verification.findings import Level

Outputs = list[np.ndarray]
"""All outputs of one side, in graph order."""

_IS_KEY = re.compile(r"(?!output(_\d+)?$)[A-Za-z_]\w*")
"""Names of outputs that are keys of a dict; tensors and tuples give ``output`` and ``output_0``, ``output_1`` ..."""
_BY_OUTPUTS = "verify it with inputs=array (--inputs x.npy on the command line)"
_SIDES = ("preview", "frozen", "runtime")


class Tally:
    """Counts of right predictions by side, and of disagreements between the frozen model and the runtime.

    A ``metric`` gives each sample a score in 0..1 instead of right or wrong.
    """

    def __init__(self, outputs: OutputsComparison, metric: Metric | None, metric_name: str) -> None:
        self._outputs, self._metric, self._metric_name = outputs, metric, metric_name
        self.images = 0
        self.correct: dict[str, float] = {}
        self.disagreements = 0

    def add(self, sides: Mapping[str, Outputs], samples: int, labels: np.ndarray | None) -> None:
        """Count one batch of so many samples.

        Raises:
            UserError: the sides give outputs of other shapes, or not one for each label.
        """
        _require_equal_shapes(sides, None if labels is None else samples)
        self.images += samples
        if "frozen" in sides:
            self._outputs.add(sides["frozen"], sides["runtime"], samples)
        if labels is not None:
            self._count(sides, labels)

    def _count(self, sides: Mapping[str, Outputs], labels: np.ndarray) -> None:
        predictions = {side: self._predictions(outputs, labels) for side, outputs in sides.items()}
        for side, predicted in predictions.items():
            scores = predicted == labels if self._metric is None else predicted
            self.correct[side] = self.correct.get(side, 0) + float(scores.sum(dtype=np.float64))
        if "frozen" in predictions:
            self.disagreements += int((predictions["frozen"] != predictions["runtime"]).sum())

    def _predictions(self, outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        """Classes, or what the metric of a data set says of each sample."""
        return _classes(outputs[0]) if self._metric is None else self._scores(outputs, labels)

    def _scores(self, outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        """Score outputs by the metric of a data set: a tensor, a tuple, or, by name, what was a dict."""
        tensors = dict(zip(self._outputs.exact, map(torch.from_numpy, outputs), strict=True))
        given: Any = tensors
        if not all(map(_IS_KEY.fullmatch, tensors)):
            given = tuple(tensors.values()) if len(tensors) > 1 else next(iter(tensors.values()))
        return np.asarray(scores_of(self._metric, given, torch.from_numpy(labels)).numpy())

    @property
    def is_exact(self) -> bool:
        """Whether nothing in float has a part in any output."""
        return all(self._outputs.exact.values())

    @property
    def percent(self) -> dict[str, float]:
        """By side, how much of all samples is right."""
        return {side: 100.0 * count / self.images for side, count in self.correct.items()}

    def outputs_result(self) -> Level:
        """Without labels: the outputs of the frozen model and the runtime, within the tolerance of float operators."""
        problems = self._outputs.problems()
        return Level("accuracy", "failed" if problems else "passed", tuple(problems or [self._outputs.summary()]))

    def accuracy_result(self, tolerance: float | None) -> Level:
        """With labels: frozen model and runtime must predict the same, the preview be within ``tolerance`` points."""
        problems = tuple(self._problems(tolerance))
        return Level("accuracy", "failed" if problems else "passed", (*problems, self._summary()))

    def _problems(self, tolerance: float | None) -> Iterator[str]:
        if self.disagreements:
            counted = f"{self.disagreements} of {self.images} images"
            yield f"the frozen model and ONNX Runtime predict differently on {counted}"
        yield from self._outputs.problems(exact_only=True)
        if tolerance is not None and self._is_preview_far(tolerance):
            yield f"the float preview is more than {tolerance:g} points away from the integer model"

    def _is_preview_far(self, tolerance: float) -> bool:
        if "preview" not in self.correct or "frozen" not in self.correct:
            return False
        # a small set cannot express a tenth of a point: round up to whole images
        allowed = int(np.ceil(tolerance * self.images / 100 - 1e-9))
        return abs(self.correct["preview"] - self.correct["frozen"]) > allowed

    def _summary(self) -> str:
        percent = self.percent
        shown = ", ".join(f"{side} {percent[side]:.2f} %" for side in _SIDES if side in percent)
        name = "" if self._metric is None else f"{self._metric_name}: "
        return f"{name}{shown} on {self.images} images"


def _require_equal_shapes(sides: Mapping[str, Outputs], labels: int | None) -> None:
    """Refuse outputs that cannot be compared with each other, or with labels."""
    shapes = {side: [output.shape for output in outputs] for side, outputs in sides.items()}
    wanted = shapes["runtime"]
    for side, found in shapes.items():
        if found != wanted:
            raise UserError(
                f"ONNX Runtime gives outputs of shapes {wanted}, but the {side} model {found}, so nothing "
                "can be compared; export that model again"
            )
    if labels is not None and wanted[0][:1] != (labels,):
        raise UserError(
            f"the model's first output has the shape {list(wanted[0])}, which does not hold one row per input; "
            f"{_BY_OUTPUTS}"
        )


def _classes(outputs: np.ndarray) -> np.ndarray:
    if outputs.ndim != 2:
        raise UserError(
            f"the model's first output is not [N, classes], so it is no classifier; {_BY_OUTPUTS}, or with a data set "
            "that has a metric"
        )
    return np.asarray(outputs.argmax(axis=1))

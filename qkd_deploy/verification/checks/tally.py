"""Scores the outputs of all sides, batch by batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.classification import Classification, MeanScore
from qkd_deploy.tasks.task import Score, Task
from qkd_deploy.verification.checks.outputs import OutputsComparison
from qkd_deploy.verification.findings import Level

Outputs = list[np.ndarray]
"""All outputs of one side, in graph order."""

_IS_KEY = re.compile(r"(?!output(_\d+)?$)[A-Za-z_]\w*")
"""Names of outputs that are keys of a dict; tensors and tuples give ``output`` and ``output_0``, ``output_1`` ..."""
_BY_OUTPUTS = "verify it with inputs=array (--inputs x.npy on the command line)"
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
        _require_equal_shapes(sides, None if labels is None else samples)
        self.images += samples
        if "frozen" in sides:
            self._outputs.add(sides["frozen"], sides["runtime"], samples)
        if labels is not None:
            self._judge({side: self._answers(outputs) for side, outputs in sides.items()}, torch.from_numpy(labels))

    def _judge(self, answers: Mapping[str, Any], targets: Tensor) -> None:
        """Judge all sides; of classes and scores of single images it is known on how many two sides disagree."""
        assert self._data is not None
        if not self._scores and self._data.metric is None:
            self._require_known(answers["runtime"], len(targets))
        single: dict[str, Tensor] = {}
        for side, given in answers.items():
            score = self._scores.setdefault(side, self._data.score())
            with _scoring(self._data.task):
                if isinstance(score, MeanScore):
                    single[side] = score.judge(given, targets)
                else:
                    score.add(given, targets)
        if self._classifies:  # two wrong classes are a disagreement, too
            single = {side: self._data.task.decisions(given) for side, given in answers.items()}
        if "frozen" in single:
            self._disagreements += int((single["frozen"] != single["runtime"]).sum())

    def _require_known(self, answers: Any, images: int) -> None:
        """Refuse a file whose answers are none of the task's that its labels belong to."""
        assert self._data is not None
        try:
            self._data.task.check_answers(answers, images, len(self._data.classes), "the file")
        except UserError as error:
            raise UserError(
                f"{error}; or verify it with the task that it was made for, --task NAME or package.module:Class "
                "(task= of load_dataset in Python)"
            ) from error

    def _answers(self, outputs: Outputs) -> Any:
        """Outputs as ``plain_answers`` has them: a tensor, a tuple, or, by name, what was a dict."""
        if self._classifies:
            return torch.from_numpy(_logits(outputs[0]))
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
        return Level("accuracy", "failed" if problems else "passed", (*problems, self._summary()))

    def _problems(self, tolerance: float | None) -> Iterator[str]:
        if self._disagreements:
            counted = f"{self._disagreements} of {self.images} images"
            yield f"the frozen model and ONNX Runtime predict differently on {counted}"
        elif self.is_exact and "frozen" in self.figures and self.figures["frozen"] != self.figures["runtime"]:
            yield "the frozen model and ONNX Runtime reach other figures"
        yield from self._outputs.problems(exact_only=True)
        if tolerance is not None and self._is_preview_far(tolerance):
            yield (
                f"the float preview is more than {tolerance:g} points away from the integer model; where no code "
                "differs, and few images or rare classes make the measure jump, allow more by --tolerance (tolerance= "
                "in Python)"
            )

    def _is_preview_far(self, tolerance: float) -> bool:
        percent = self.percent
        if "preview" not in percent or "frozen" not in percent:
            return False
        # a small set cannot express a tenth of a point: round up to whole images
        allowed = 100.0 * np.ceil(tolerance * self.images / 100 - 1e-9) / self.images
        return bool(abs(percent["preview"] - percent["frozen"]) > allowed + 1e-9)

    def _summary(self) -> str:
        shown = []
        for name in self.figures["runtime"]:
            sides = [f"{side} {self.figures[side][name]:.2f} %" for side in _SIDES if side in self.figures]
            shown.append(f"{'' if self._classifies else f'{name}: '}{', '.join(sides)}")
        return f"{'; '.join(shown)} on {self.images} images"


@contextmanager
def _scoring(task: Task) -> Iterator[None]:
    """Name the task whose score fails: that of a task of the user's raises what it likes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(
            f"the score of the task {task.name} fails with {reason}; correct it, or let its check_answers refuse such "
            "answers"
        ) from error


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


def _logits(outputs: np.ndarray) -> np.ndarray:
    if outputs.ndim != 2:
        raise UserError(
            f"the model's first output is not [N, classes], so it is no classifier; {_BY_OUTPUTS}, or with a data set "
            "that has a metric, or one of its own task "
            "(--task on the command line)"
        )
    return outputs

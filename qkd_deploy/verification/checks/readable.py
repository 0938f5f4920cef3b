"""Refuses outputs that cannot be compared or scored, with a way out, before they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.task import Task

Outputs = list[np.ndarray]
"""All outputs of one side, in graph order."""

_BY_OUTPUTS = "verify it with inputs=array (--inputs x.npy on the command line)"


def require_readable(data: ImageDataset, answers: Any, images: int) -> None:
    """Refuse answers that the task of the data set cannot score.

    Raises:
        UserError: as it says.
    """
    try:
        data.task.check_answers(answers, images, len(data.classes), "the file")
    except UserError as error:
        raise UserError(
            f"{error}; or verify it with the task that it was made for, --task NAME or package.module:Class "
            "(task= of load_dataset in Python)"
        ) from error


@contextmanager
def scoring(task: Task) -> Iterator[None]:
    """Name the task whose score fails: that of a task of the user's raises what it likes.

    Raises:
        UserError: it fails.
    """
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


def require_equal_shapes(sides: Mapping[str, Outputs], labels: int | None) -> None:
    """Refuse outputs that cannot be compared with each other, or with labels.

    Args:
        sides: all outputs by side.
        labels: how many there are; None without any.

    Raises:
        UserError: as it says.
    """
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


def logits_of(outputs: np.ndarray) -> np.ndarray:
    """Take the first output of a classifier.

    Raises:
        UserError: it is that of something else.
    """
    if outputs.ndim != 2:
        raise UserError(
            f"the model's first output is not [N, classes], so it is no classifier; {_BY_OUTPUTS}, or with a data set "
            "that has a metric, or one of its own task "
            "(--task on the command line)"
        )
    return outputs

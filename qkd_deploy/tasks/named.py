"""Look up tasks by the names that users give: a new one is a file beside this one and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

from qkd_deploy.errors import UserError
from qkd_deploy.factory import build
from qkd_deploy.tasks.task import Task

AUTO = "auto"
"""The task that the data set is for."""


def _of(module: str, name: str) -> Callable[[], object]:
    def made() -> object:
        return getattr(import_module(f"qkd_deploy.tasks.{module}"), name)()

    return made


TASKS: Mapping[str, Callable[[], object]] = MappingProxyType(
    {
        "classification": _of("classification", "Classification"),
        "segmentation": _of("segmentation", "Segmentation"),
        "detection": _of("detection.task", "Detection"),
    }
)


def task_named(name: str) -> Task:
    """Make the task called ``name``.

    Args:
        name: a key of ``TASKS``, or ``package.module:Class`` of the user's; importing runs that module.

    Raises:
        UserError: there is none, or it is none of ``Task``.
    """
    task = build("task", name, TASKS)
    if not isinstance(task, Task):
        raise UserError(f"{name} made a {type(task).__name__}; name a class derived from qkd_deploy.tasks.task.Task")
    return task

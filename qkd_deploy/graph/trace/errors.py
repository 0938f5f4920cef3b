"""Say in one sentence why a network cannot be traced: what is wrong, in which module and line, and the way out."""

from __future__ import annotations

import linecache
import sys
import traceback
from pathlib import Path
from types import FrameType

from torch import nn

from qkd_deploy.bits import keep_in_float
from qkd_deploy.errors import UserError

_OWN = str(Path(__file__).parents[1])
"""Folder of the files that trace; lines in it are never the user's."""

STATELESS = "make forward free of memory: take what it remembers as an input and return it as an output"


class Untraceable(Exception):
    """A call that cannot be traced: the problem and the way out; ``explain`` adds the module and the user's line."""

    def __init__(self, problem: str, way_out: str) -> None:
        """``{leaf}`` in ``way_out`` stands for the advice to keep the module as one step."""
        super().__init__(problem)
        self.problem, self.way_out = problem, way_out


class Failed(Exception):
    """A call that does not run; ``doubled`` where only twice the batch made it fail."""

    def __init__(self, doubled: bool) -> None:
        super().__init__()
        self.doubled = doubled


def by_values() -> Untraceable:
    """Make the error of a decision that depends on a tensor's elements."""
    return Untraceable(
        "it reads the values of a tensor into Python",
        "compute with tensors instead (torch.where, clamp, masks)",
    )


def by_batch() -> Untraceable:
    """Make the error of a decision that depends on the batch size."""
    return Untraceable(
        "it turns the batch size, which stays open, into a Python number or decision",
        "write it for any batch (-1 in view and expand, // instead of int())",
    )


def explain(error: Exception, model: nn.Module, path: str) -> UserError:
    """Turn an error that stopped tracing inside the module at ``path`` into one sentence for the user."""
    mode = ", in train mode," if model.training else ""
    where = f"{module_name(model, path)}{_line_of(error)}{mode}"
    if isinstance(error, Failed) and error.__cause__ is not None:
        return _explain_failed(error.__cause__, error.doubled, where)
    problem, way_out = _first_line(error), "{leaf}, or rewrite it without control flow that depends on values"
    if isinstance(error, Untraceable):
        problem, way_out = error.problem, error.way_out
    return UserError(f"cannot trace {where}: {problem}; {way_out.format(leaf=leaf_advice(model, path))}")


def _explain_failed(cause: BaseException, doubled: bool, where: str) -> UserError:
    if doubled:
        return UserError(
            f"the network runs at one batch size only: {where} fails for twice the examples: {_first_line(cause)}; "
            "take the batch from the tensor (x.flatten(1), x.size(0)) instead of a constant"
        )
    return UserError(
        f"the network does not run on the example inputs: {where} fails: {_first_line(cause)}; "
        "pass example_inputs as forward takes them"
    )


def module_name(model: nn.Module, path: str) -> str:
    """Name a module by path and class; "the network (Class)" for the whole of it."""
    return in_words(path, model.get_submodule(path))


def in_words(path: str, module: nn.Module) -> str:
    """Name a module by the path that it has, and its class; TorchScript has no submodules by path."""
    return f"{path or 'the network'} ({type(module).__name__})"


def leaf_advice(model: nn.Module, path: str) -> str:
    """Say how to keep the module at ``path`` as one step in float."""
    if not path:
        return f"move it into a module of its own and {keep_in_float('PATH')}"
    return keep_in_float(path)


def user_line() -> str:
    """Return the line of the user's code that is running, as ``file:line``; "" where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _line_of(error: Exception) -> str:
    """Say where in the user's code an error was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if not frames:
        return ""
    frame = frames[-1]
    code = linecache.getline(frame.filename, frame.lineno or 0).strip()
    quoted = f" ({code})" if code else ""
    return f" at {frame.filename}:{frame.lineno} in {frame.name}{quoted}"


def _is_users(filename: str) -> bool:
    return "/torch/" not in filename and not filename.startswith(_OWN)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else repr(error)

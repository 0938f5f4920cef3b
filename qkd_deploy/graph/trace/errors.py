"""One sentence for a network that cannot be traced: what is wrong, in which module and line, and the way out."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path

from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.trace.proxies import Untraceable

OWN = str(Path(__file__).parents[1])
"""Folder of the files that trace."""


STATELESS = "make forward free of memory: take what it remembers as an input and return it as an output"


class Failed(Exception):
    """A step that does not run; ``doubled`` where only twice the batch made it fail."""

    def __init__(self, doubled: bool) -> None:
        super().__init__()
        self.doubled = doubled


def explain(error: Exception, model: nn.Module, path: str) -> UserError:
    """The sentence for an error that stopped tracing inside the module at ``path``."""
    mode = ", in train mode," if model.training else ""
    where = f"{module_name(model, path)}{_users_line(error)}{mode}"
    cause = error.__cause__
    if isinstance(error, Failed) and isinstance(cause, Exception):
        if error.doubled:
            return UserError(
                f"the network runs at one batch size only: {where} fails for twice the examples: {_first_line(cause)}; "
                "take the batch from the tensor (x.flatten(1), x.size(0)) instead of a constant"
            )
        return UserError(
            f"the network does not run on the example inputs: {where} fails: {_first_line(cause)}; "
            "pass example_inputs as forward takes them"
        )
    if isinstance(error, Untraceable):
        problem, way_out = error.problem, error.way_out
    else:
        problem, way_out = _first_line(error), "{leaf}, or rewrite it without control flow that depends on values"
    return UserError(f"cannot trace {where}: {problem}; {way_out.format(leaf=_leaf_advice(model, path))}")


def module_name(model: nn.Module, path: str) -> str:
    """A module's path and class; "the network (Class)" for the whole of it."""
    module = model.get_submodule(path)
    return f"{path or 'the network'} ({type(module).__name__})"


def _leaf_advice(model: nn.Module, path: str) -> str:
    if not path:
        return "move it into a module of its own and pass that class in leaf_modules (it then stays in float)"
    return f"pass leaf_modules=({type(model.get_submodule(path)).__name__},) to keep that module as one step in float"


def _users_line(error: Exception) -> str:
    """Where in the user's code tracing failed."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename and not frame.filename.startswith(OWN)
    ]
    if not frames:
        return ""
    frame = frames[-1]
    code = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f" at {frame.filename}:{frame.lineno} in {frame.name}" + (f" ({code})" if code else "")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else repr(error)

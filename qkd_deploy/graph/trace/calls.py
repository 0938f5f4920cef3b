"""What the tracer asks about a call: where its function comes from, what its arguments hold, who wrote it."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from qkd_deploy.graph.trace.errors import OWN
from qkd_deploy.graph.trace.proxies import Concrete

_KNOWN = ("torch", "operator", "_operator")
"""Where functions come from whose results may be taken apart; others are opaque by the user's ``fx.wrap``."""


def is_open(kind: str, target: Any) -> bool:
    """Whether a step's result may be taken apart: not that of a function that the user has made opaque."""
    return kind != "call_function" or target is getattr or _home(target) in _KNOWN


def is_arithmetic(kind: str, target: Any) -> bool:
    """Whether a step on numbers gives numbers."""
    return kind == "call_method" or (kind == "call_function" and _home(target) != "torch")


def _home(target: Any) -> str:
    """The package of a function; PyTorch's own builtins name none."""
    return (getattr(target, "__module__", None) or "torch").split(".")[0]


def user_line() -> str:
    """The line of the user's code that is being traced."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename.startswith(OWN)):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def at_example(index: int, value: Any) -> Any:
    """Arguments with values in place of Proxies: for the examples (0) or for twice as many (1)."""

    def at(a: Any) -> Any:
        return a.seen[index] if isinstance(a, Concrete) else a

    return map_aggregate(value, at)


def proxies_in(value: Any) -> list[Concrete]:
    """The Proxies nested in arguments."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Concrete)]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors nested in a value."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def attribute(root: Any, path: str) -> Any:
    """What a path of names leads to."""
    value = root
    for part in path.split("."):
        value = getattr(value, part)
    return value


@contextmanager
def tensors_by_isinstance(root: nn.Module) -> Iterator[None]:
    """Let ``isinstance`` in the files of the user's modules take a Proxy for what it stands for."""
    forwards = [
        getattr(type(m), "forward", None) for m in root.modules() if not type(m).__module__.startswith("torch.")
    ]
    places = {id(f.__globals__): f.__globals__ for f in forwards if isinstance(f, FunctionType)}
    open_places = [place for place in places.values() if "isinstance" not in place]
    for place in open_places:
        place["isinstance"] = _isinstance
    try:
        yield
    finally:
        for place in open_places:
            del place["isinstance"]


def _isinstance(value: Any, kind: Any) -> bool:
    return builtins.isinstance(value.seen[0] if type(value) is Concrete else value, kind)

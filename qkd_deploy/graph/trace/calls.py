"""One call of the user's forward, and the questions that tracing asks about it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from qkd_deploy.graph.trace.proxies import Concrete
from qkd_deploy.graph.trace.shapes import tensors_in

_KNOWN_PACKAGES = ("torch", "operator", "_operator")
"""Packages of functions whose results may be taken apart; others are opaque by the user's ``fx.wrap``."""

_DESCRIBING_METHODS = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "get_device", "type",
    "is_floating_point", "is_complex", "is_signed", "is_contiguous",
}  # fmt: skip
_DESCRIBING_FUNCTIONS = (
    torch.numel,
    torch.is_floating_point,
    torch.is_complex,
    torch.is_same_size,
    torch.result_type,
    getattr,
    len,
)
_UNPACKING = (operator.getitem, "__getitem__")


@dataclass(frozen=True)
class Call:
    """A call that the user's forward makes, as ``torch.fx`` has it, with proxies among its arguments.

    Attributes:
        kind: "placeholder", "get_attr", "call_function", "call_method" or "call_module".
        target: the function, or the name of the input, attribute, method or module.
        args: positional arguments.
        kwargs: keyword arguments.
    """

    kind: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def at(self, index: int) -> Call:
        """Return the call with values in place of proxies: for the examples (0), twice as many (1), or beyond."""
        return Call(self.kind, self.target, at(index, self.args), at(index, self.kwargs))

    @property
    def first_tensor(self) -> Tensor | None:
        """The first argument for the examples, where it is a tensor that the network computes."""
        first = self.args[0] if self.args else None
        value = first.seen[0] if isinstance(first, Concrete) else None
        return value if isinstance(value, Tensor) else None

    @property
    def is_open(self) -> bool:
        """True where the result may be taken apart: not for functions that the user has made opaque."""
        return self.kind != "call_function" or self.target is getattr or self._package in _KNOWN_PACKAGES

    @property
    def is_arithmetic(self) -> bool:
        """True for a call of Python's, not PyTorch's, on numbers that follow the batch: it gives such a number."""
        by_python = self.kind == "call_method" or (self.kind == "call_function" and self._package != "torch")
        return by_python and self._is_on_numbers()

    def numbers(self) -> list[tuple[Any, ...]]:
        """Return the numbers among the arguments that follow the batch, each with all its values."""
        return [proxy.seen for proxy in self._proxies() if not proxy.reads_tensors]

    def _is_on_numbers(self) -> bool:
        proxies, leaves = self._proxies(), tree_leaves((self.args, self.kwargs))
        return bool(proxies) and not tensors_in(leaves) and not any(proxy.reads_tensors for proxy in proxies)

    def _proxies(self) -> list[Concrete]:
        """Return the proxies among the arguments, also those in slices, which pytrees take for leaves."""
        found: list[Concrete] = []

        def note(argument: Any) -> Any:
            if isinstance(argument, Concrete):
                found.append(argument)
            return argument

        map_aggregate((self.args, self.kwargs), note)
        return found

    @property
    def is_description(self) -> bool:
        """True for a call that says how a tensor looks (its size, its type), not which elements it has."""
        if self.target in _UNPACKING:
            return self.first_tensor is None
        known = _DESCRIBING_METHODS if self.kind == "call_method" else _DESCRIBING_FUNCTIONS
        return self.target in known

    @property
    def _package(self) -> str:
        """The package of a function; PyTorch's own builtins name none."""
        return (getattr(self.target, "__module__", None) or "torch").split(".")[0]


def at(index: int, arguments: Any) -> Any:
    """Put values in place of the proxies in arguments; ``index`` as in ``Call.at``."""

    def value(argument: Any) -> Any:
        return argument.seen[index] if isinstance(argument, Concrete) else argument

    return map_aggregate(arguments, value)

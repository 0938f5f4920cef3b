"""Proxies that know their values: while a network is traced, every step also runs on the example inputs.

Each step runs on the examples and on a batch twice as large. What is the same for both and read from no tensor's
contents (channels, heights, data types) is an ordinary Python value, so that control flow on it just works. A number
that follows the batch stays symbolic. It is computed for many more batch sizes too (sizes are linear in the batch),
because ``batch // 64`` and ``batch == 1`` look constant at any two sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

BATCHES = (*range(1, 257), 512, 1000, 1024, 4096)
"""Batch sizes at which arithmetic on the batch size is tried, beside the example's and twice that."""

_METHODS = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "get_device", "type",
    "is_floating_point", "is_complex", "is_signed", "is_contiguous",
}  # fmt: skip
_FUNCTIONS = (
    torch.numel,
    torch.is_floating_point,
    torch.is_complex,
    torch.is_same_size,
    torch.result_type,
    getattr,
    len,
)
_UNPACKING = (operator.getitem, "__getitem__")


class Untraceable(Exception):
    """Why a step cannot be traced, and the way out; the tracer adds the module and the user's line."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(problem)
        self.problem, self.way_out = problem, way_out


class Unknown:
    """A number that does not exist at some batch size; equal to nothing."""


def by_values() -> Untraceable:
    """The error of a decision that depends on what a tensor holds."""
    return Untraceable(
        "it reads the values of a tensor into Python",
        "compute with tensors instead (torch.where, clamp, masks), or {leaf}",
    )


def by_batch() -> Untraceable:
    """The error of a decision that depends on the batch size."""
    return Untraceable(
        "it turns the batch size, which stays open, into a Python number or decision",
        "write it for any batch (-1 in view and expand, // instead of int()), or {leaf}",
    )


class Concrete(fx.Proxy):
    """A step of the traced network and its values.

    Attributes:
        seen: what it is for the examples and for twice their batch; for values without tensors also at ``BATCHES``.
    """

    def __init__(self, node: fx.Node, tracer: fx.Tracer, seen: tuple[Any, ...]) -> None:
        super().__init__(node, tracer)
        self.seen = seen

    @property
    def reads_tensors(self) -> bool:
        """Whether there is a tensor in it."""
        return has_tensor(self.seen[0])

    def _python(self, convert: Callable[[Any], Any]) -> Any:
        """What Python makes of it, which must not depend on the batch or on a tensor's contents."""
        if isinstance(self.seen[0], Tensor):
            raise by_values()
        if any(isinstance(value, Unknown) for value in self.seen):
            raise by_batch()
        results = tuple(convert(value) for value in self.seen)
        if not agree(results):
            raise by_batch()
        return results[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not hasattr(Tensor, name):
            raise AttributeError(name)
        value = getattr(self.seen[0], name)  # an AttributeError here is the user's
        if callable(value):
            return fx.proxy.Attribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __bool__(self) -> bool:
        return bool(self._python(bool))

    def __int__(self) -> int:
        return int(self._python(int))

    def __float__(self) -> float:
        return float(self._python(float))

    def __index__(self) -> int:
        return int(self._python(operator.index))

    def __len__(self) -> int:
        lengths = tuple(len(value) for value in self.seen)
        if not agree(lengths):
            raise by_batch()
        return lengths[0]

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])  # type: ignore[index]

    def __contains__(self, item: Any) -> bool:
        if self.reads_tensors:
            raise by_values()
        return any(part is item or part == item for part in self)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise Untraceable(
            "it assigns to a part of a tensor",
            "build the tensor from parts instead (torch.cat, torch.where, F.pad), or {leaf}",
        )

    def __floor__(self) -> Any:
        return self // 1  # type: ignore[operator]

    def __ceil__(self) -> Any:
        return -(-self // 1)  # type: ignore[operator]


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    """``x += y`` changes the tensor that other variables may hold; numbers have no such variables."""
    in_place, plain = getattr(operator, f"i{name}"), getattr(operator, name)

    def compute(self: Concrete, other: Any) -> Any:
        target = in_place if isinstance(self.seen[0], Tensor) else plain
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return compute


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Concrete, f"__i{_name}__", _in_place(_name))


def has_tensor(value: Any) -> bool:
    """Whether there is a tensor anywhere in a value."""
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def agree(values: tuple[Any, ...]) -> bool:
    """Whether Python values are all of one type and equal."""
    first = values[0]
    return not isinstance(first, Unknown) and all(type(v) is type(first) and bool(v == first) for v in values)


def is_description(kind: str, target: Any, operand: Any) -> bool:
    """Whether a call says what a tensor looks like (its size, its type), not what is in it."""
    if kind == "call_method":
        return target in _METHODS or (target in _UNPACKING and not isinstance(operand, Tensor))
    return target in _FUNCTIONS or (target in _UNPACKING and not isinstance(operand, Tensor))


def at_other_batches(one: Any, two: Any, batch: int) -> tuple[Any, ...]:
    """A description at ``BATCHES``, from those at ``batch`` and twice that: sizes are linear in the batch."""
    return tuple(_linear(one, two, batch, other) for other in BATCHES)


def _linear(one: Any, two: Any, batch: int, other: int) -> Any:
    if isinstance(one, (tuple, list)) and type(one) is type(two) and len(one) == len(two):
        parts = [_linear(a, b, batch, other) for a, b in zip(one, two, strict=True)]
        return Unknown() if any(isinstance(part, Unknown) for part in parts) else type(one)(parts)
    if type(one) is int and type(two) is int:
        steps, rest = divmod((two - one) * (other - batch), batch)
        return Unknown() if rest else one + steps
    return one if type(one) is type(two) and one == two else Unknown()

"""Proxies that know their values: they stand for tensors in the user's ``forward`` and answer questions about sizes.

A proxy of ``torch.fx`` records what is done to it but has no shape, so that ``if x.shape[1] == 64`` cannot be traced.
A ``Concrete`` also carries the value itself, for the examples and for twice as many (``batch_sizes`` says why two).
Python may look at what all of them agree on; a question whose answer depends on the batch or on a tensor's elements is
an error, because the graph holds one answer only.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from qkd_deploy.graph.trace.assigned_parts import with_part
from qkd_deploy.graph.trace.batch_sizes import Unknown, agree
from qkd_deploy.graph.trace.errors import by_batch, by_values
from qkd_deploy.graph.trace.shapes import has_tensor


class Concrete(fx.Proxy):
    """A step of the traced network and its values.

    Attributes:
        seen: its value for the examples, then for twice as many; for values without tensors then at each of
            ``batch_sizes.BATCHES``.
    """

    def __init__(self, node: fx.Node, tracer: fx.Tracer, seen: tuple[Any, ...]) -> None:
        super().__init__(node, tracer)
        self.seen = seen

    @property
    def reads_tensors(self) -> bool:
        """True where there is a tensor in it."""
        return has_tensor(self.seen[0])

    def _python(self, convert: Callable[[Any], Any]) -> Any:
        """Convert the value to a Python value that depends neither on the batch nor on a tensor's elements."""
        if isinstance(self.seen[0], Tensor):
            raise by_values()
        if any(isinstance(value, Unknown) for value in self.seen):
            raise by_batch()
        return self._agreed(convert)

    def _agreed(self, convert: Callable[[Any], Any]) -> Any:
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
        return int(self._agreed(len))

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])  # type: ignore[index]

    def __contains__(self, item: Any) -> bool:
        if self.reads_tensors:
            raise by_values()
        return any(part is item or part == item for part in self)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Stand for the tensor with another part from here on (see ``assigned_parts``)."""
        changed: Any = self.tracer.create_proxy("call_function", with_part, (self, index, value), {})
        self.node, self.seen = changed.node, changed.seen

    def __floor__(self) -> Any:
        return self // 1  # type: ignore[operator]

    def __ceil__(self) -> Any:
        return -(-self // 1)  # type: ignore[operator]


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    """Make the method for ``x += y``: of a tensor it changes what other variables may hold, of a number it does not."""
    in_place, plain = getattr(operator, f"i{name}"), getattr(operator, name)

    def compute(self: Concrete, other: Any) -> Any:
        target = in_place if isinstance(self.seen[0], Tensor) else plain
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return compute


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Concrete, f"__i{_name}__", _in_place(_name))


@contextmanager
def tensors_by_isinstance(root: nn.Module) -> Iterator[None]:
    """Let ``isinstance(x, Tensor)`` in the files of the user's modules be true of a proxy that stands for a tensor."""
    open_places = [place for place in _globals_of_forwards(root) if "isinstance" not in place]
    for place in open_places:
        place["isinstance"] = _isinstance
    try:
        yield
    finally:
        for place in open_places:
            del place["isinstance"]


_SIZED = ("broadcast_to", "expand", "repeat", "reshape", "tile", "view")
"""Methods of tensors that take sizes one by one, where PyTorch does not ask proxies."""


@contextmanager
def constants_of_the_batch(tracer: fx.Tracer) -> Iterator[None]:
    """Let a tensor that no input has a part in take the batch as a size, as ``mask.expand(batch, -1)`` does."""
    for name in _SIZED:
        setattr(Tensor, name, _sized(tracer, name, getattr(Tensor, name)))
    try:
        yield
    finally:
        for name in _SIZED:
            delattr(Tensor, name)  # which uncovers the method of PyTorch's own base class


def _sized(tracer: fx.Tracer, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, Concrete) for leaf in tree_leaves((args, kwargs))):
            return tracer.create_proxy("call_method", name, (self, *args), kwargs)
        return method(self, *args, **kwargs)

    return call


def _globals_of_forwards(root: nn.Module) -> list[dict[str, Any]]:
    """Return the global variables of each file that defines the ``forward`` of one of the user's modules."""
    classes = {type(module) for module in root.modules() if not type(module).__module__.startswith("torch.")}
    forwards = [getattr(kind, "forward", None) for kind in classes]
    places = {id(f.__globals__): f.__globals__ for f in forwards if isinstance(f, FunctionType)}
    return list(places.values())


def _isinstance(value: Any, kind: Any) -> bool:
    stands_for = value.seen[0] if type(value) is Concrete else value
    return builtins.isinstance(stands_for, kind)

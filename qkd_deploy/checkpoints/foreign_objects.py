"""Objects of other programs in files of ``torch.save``: they are read as plain data, and none of their code runs.

PyTorch's restricted unpickler refuses every class and function that it is not told of. It is told of all that a file
names, but what stands behind the names is a class of ours: an object becomes an ``OrderedDict`` with its items, whose
attributes are the object's. So weights can be taken out of a pickled network, and out of what lies beside settings,
counters and callbacks of training programs.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch

_RUNS = frozenset(
    ("__builtin__", "builtins", "commands", "ctypes", "importlib", "marshal", "nt", "os", "pickle", "posix", "pty")
)
_RUNS |= {"runpy", "shutil", "socket", "subprocess", "sys", "webbrowser"}
"""Modules whose functions no checkpoint needs: a file that names one is refused, although nothing would be called."""
_PLAIN = (
    "bool",
    "bytes",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "object",
    "range",
    "slice",
    "str",
    "tuple",
    "type",
)
_NUMBER = "biufc"
"""NumPy's kinds of plain numbers."""


class _Object:
    """Stands for any class or function: making an instance, or calling it, gives an empty ``OrderedDict``."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _Ignored:
    """Stands for an object whose state is no dictionary."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _Type:
    """Stands for ``numpy.dtype``: its name, and the order of its bytes."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self._name, self._order = str(name), "="

    def __setstate__(self, state: Any) -> None:
        self._order = state[1] if state[1] in "<>" else "="

    def numbers(self, data: Any) -> np.ndarray:
        """Read numbers from bytes; an array without any where they are of another kind."""
        if self._name[:1] not in _NUMBER or not isinstance(data, bytes):
            return np.empty(0)
        return np.frombuffer(data, np.dtype(self._order + self._name))


class NumpyArray:
    """Stands for an array of NumPy that is being read.

    Attributes:
        array: its numbers; None where it holds something else.
    """

    array: np.ndarray | None = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, data = state
        numbers = kind.numbers(data)
        if numbers.size == np.prod(shape, dtype=object):
            self.array = numbers.reshape(shape, order="F" if by_column else "C")


def _no_items(*_: Any) -> list[Any]:
    return []


def _number(kind: Any, data: Any = b"") -> Any:
    """Stand for the function of NumPy that makes a scalar."""
    numbers = kind.numbers(data) if isinstance(kind, _Type) else np.empty(0)
    return numbers[0].item() if numbers.size == 1 else None


_KNOWN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("collections.defaultdict", "argparse.Namespace", "types.SimpleNamespace"), _Object),
    **dict.fromkeys((f"builtins.{name}" for name in _PLAIN), _Object),
    "collections.deque": _no_items,
    "functools.partial": _Ignored,
    "numpy.dtype": _Type,
    "numpy.ndarray": _Object,
    **dict.fromkeys((f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")), _number),
    **dict.fromkeys((f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")), NumpyArray),
}


def load_as_data(file: BinaryIO) -> Any:
    """Read what ``torch.save`` wrote as tensors and plain data, on the CPU.

    Args:
        file: at its beginning.

    Raises:
        pickle.UnpicklingError: the file names a function that runs something, or a class that cannot be read as data
            or stands in an older format; the message names it as ``GLOBAL module.name``.
        Exception: PyTorch's, of damaged files.
    """
    names = _names_in(file)
    for name in names:
        if name.partition(".")[0] in _RUNS and name not in _KNOWN:
            raise pickle.UnpicklingError(f"GLOBAL {name} runs code")
    stand_ins = {**_KNOWN, **{name: _KNOWN.get(name, _Object) for name in names}}
    file.seek(0)
    try:
        with torch.serialization.safe_globals([(function, name) for name, function in stand_ins.items()]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch has no common error
        if not names:
            raise
        raise pickle.UnpicklingError(f"GLOBAL {' or '.join(sorted(names)[:3])} cannot be read as data") from error


def _names_in(file: BinaryIO) -> list[str]:
    """List the classes and functions that PyTorch does not know; none of a file in an older format."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (ValueError, pickle.UnpicklingError):  # an older format, or a newer protocol of pickle
        return []

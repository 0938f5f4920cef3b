"""Translations that are kept for the life of a process, and what tells that one of them fits."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import OrderedDict
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from qkd_deploy.graph.ir import Node, Ref, substitute
from qkd_deploy.graph.translation.operation import Operation

_KNOWN_CODE = ("torch", "qkd_deploy", "builtins", "collections", "copyreg", "functools", "_operator")
"""Packages whose functions and classes stay what they are while a process runs; a user's own may change."""


class _Fingerprint(pickle.Pickler):
    """Pickles what a translation depends on: tensors by their content, classes and functions by name.

    Raises:
        pickle.PicklingError: a class or function of the user's own, whose code may change between two exports.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._numbers: dict[int, int] = {}  # by identity: tensors that are shared stay shared

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and obj.__module__.partition(".")[0] not in _KNOWN_CODE:
            raise pickle.PicklingError(f"{obj} is not PyTorch's")
        if not isinstance(obj, Tensor):
            return None
        content = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        number = self._numbers.setdefault(id(obj), len(self._numbers))
        return number, str(obj.dtype), tuple(obj.shape), hashlib.sha256(content).digest()


class Translations:
    """Serialized models by fingerprint; the ones used longest ago go first."""

    def __init__(self, limit: int) -> None:
        """Keep at most ``limit`` bytes."""
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        """The model behind a key; None where there is none."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: bytes, model: bytes) -> None:
        """Add a model."""
        self._kept[key] = model
        self._size += len(model)
        while self._size > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)


def fingerprint(operation: Operation, operands: list[Node], examples: tuple[Tensor, ...]) -> bytes | None:
    """Make a digest of everything that a translation depends on; None where some of it cannot be known.

    Names of tensors do not count, the path of the module does: its parameters are called after it.

    Args:
        operation: what is translated.
        operands: the nodes that it reads.
        examples: of them.
    """
    node, names = operation.node, operation.operands

    def number(ref: Ref) -> Ref:
        return Ref(str(names.index(ref.name)))

    arguments = substitute((node.args, node.kwargs), number)
    shapes = [(tuple(x.shape), x.dtype, o.batch_dims) for x, o in zip(examples, operands, strict=True)]
    written = io.BytesIO()
    try:
        _Fingerprint(written).dump((node.kind, node.target, node.method, arguments, shapes, operation.network))
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError, NotImplementedError):
        return None
    return hashlib.sha256(written.getvalue()).digest()

"""Nodes as readable text, one a line: for looking at graphs, and for tests of passes, which read it back.

    %fc: f32[2?, 10] = layer(%flatten) {target='fc', quantizer='fc'}

A ``?`` stands behind the sizes of the example that follow the batch. Arguments are Python's own literals and ``%``
references; functions stand as the name by which they are imported, and what has no such name as ``Opaque('...')``.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import singledispatch
from types import EllipsisType
from typing import Any

import torch

from qkd_deploy.graph.ir.node import Node, Ref, members

DTYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
}
_IN_FRONT = ("name", "kind", "args", "kwargs", "shape", "batch_dims", "dtype")
_IN_BRACES = {
    f.name: f.default
    for f in fields(Node)
    if f.init and f.repr and f.default is not MISSING and f.name not in _IN_FRONT
}
_HOMES = ("torch", "torch.nn.functional", "torch.Tensor", "operator", "builtins")
"""Where functions of C are found, which do not know the module that they are imported from."""


def node_text(node: Node) -> str:
    """One line: the node's name, its type, its kind with its arguments, and the fields that are not the default."""
    arguments = [value_text(value) for value in node.args] + _assignments(node.kwargs)
    set_fields = {name: value for name in _IN_BRACES if (value := getattr(node, name)) != _default(node.name, name)}
    line = f"{value_text(Ref(node.name))}{_type_text(node)} = {node.kind}({', '.join(arguments)})"
    return f"{line} {{{', '.join(_assignments(set_fields))}}}" if set_fields else line


def _default(node_name: str, field: str) -> Any:
    """The value of a field that is not written: the label is then the name."""
    return node_name if field == "label" else _IN_BRACES[field]


def _assignments(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value_text(value)}" for name, value in values.items()]


def _type_text(node: Node) -> str:
    dtype = DTYPES[node.dtype]
    if node.shape is None:
        return "" if node.dtype == torch.float32 else f": {dtype}"
    sizes = [f"{size}?" if dim in node.batch_dims else f"{size}" for dim, size in enumerate(node.shape)]
    return f": {dtype}[{', '.join(sizes)}]"


@singledispatch
def value_text(value: Any) -> str:
    """An argument, or the output, of a graph."""
    if is_dataclass(value) and not isinstance(value, type):
        return f"{_import_name(type(value))}({', '.join(_assignments(members(value)))})"
    name = _import_name(value)
    return name or f"Opaque({str(value)!r})"


@value_text.register(type(None))
@value_text.register(bool)
@value_text.register(int)
@value_text.register(float)
@value_text.register(str)
def _(value: Any) -> str:
    return repr(value)


@value_text.register
def _(value: EllipsisType) -> str:
    return "..."


@value_text.register
def _(value: Ref) -> str:
    return f"%{value.name}" if re.fullmatch(r"[\w.]+", value.name) else f"%{json.dumps(value.name)}"


@value_text.register
def _(value: tuple) -> str:  # type: ignore[type-arg]
    inside = ", ".join(map(value_text, value))
    if hasattr(value, "_fields"):
        return f"{_import_name(type(value))}({inside})"
    return f"({inside},)" if len(value) == 1 else f"({inside})"


@value_text.register
def _(value: list) -> str:  # type: ignore[type-arg]
    return f"[{', '.join(map(value_text, value))}]"


@value_text.register
def _(value: dict) -> str:  # type: ignore[type-arg]
    inside = ", ".join(f"{value_text(key)}: {value_text(item)}" for key, item in value.items())
    return f"{{{inside}}}" if type(value) is dict else f"{_import_name(type(value))}({{{inside}}})"


@value_text.register
def _(value: slice) -> str:
    return f"slice({value_text(value.start)}, {value_text(value.stop)}, {value_text(value.step)})"


def _import_name(value: Any) -> str:
    """The dotted name under which a value is found; "" where there is none."""
    own = getattr(value, "__qualname__", "")
    names = [
        str(value),
        f"{getattr(value, '__module__', None)}.{own}",
        *(f"{home}.{own.split('.')[-1]}" for home in _HOMES),
    ]
    return next((name for name in names if _resolved(name) is value), "")


def _resolved(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except (ValueError, ImportError, AttributeError):
        return None

"""Reads back the graphs that print as text (``Graph.__str__``)."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ir.text import DTYPES

_NAME = r'[\w.]+|"(?:[^"\\]|\\.)*"'
_LINE = re.compile(rf"%(?P<name>{_NAME})(: (?P<dtype>\w+)(\[(?P<shape>[^]]*)\])?)? = (?P<kind>\w+)(?P<rest>\(.*)")
_PART = re.compile(rf"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|%(?P<name>{_NAME})|(?P<fields>\) \{{)""")
_DTYPES = {text: dtype for dtype, text in DTYPES.items()}


class Opaque:
    """Stands for a value of which the text only holds a description."""

    def __init__(self, description: str) -> None:
        self.description = description

    def __str__(self) -> str:
        return self.description


def parse_graph(text: str) -> Graph:
    """The graph that prints as ``text``; empty lines and those that begin with ``#`` count for nothing.

    Its input nodes are its inputs, in their order.
    """
    lines = [line.strip() for line in text.splitlines()]
    *body, output = [line for line in lines if line and not line.startswith("#")]
    nodes = [parse_node(line) for line in body]
    inputs = [node.name for node in nodes if node.kind == "input"]
    return Graph(nodes, inputs, parse_value(output.removeprefix("return ")))


def parse_node(line: str) -> Node:
    """The node that a line describes."""
    found = _LINE.fullmatch(line)
    assert found is not None, f"not a node: {line}"
    rest = found["rest"] if found["rest"].endswith("}") else found["rest"] + " {}"
    (args, kwargs), braces = parse_value(f"_call{rest[:-1]})")
    name, sizes = _unquoted(found["name"]), re.findall(r"\d+\??", found["shape"] or "")
    return Node(
        name,
        found["kind"],
        args,
        kwargs,
        shape=None if found["shape"] is None else tuple(int(size.rstrip("?")) for size in sizes),
        batch_dims=tuple(dim for dim, size in enumerate(sizes) if size.endswith("?")),
        dtype=_DTYPES[found["dtype"] or "f32"],
        **{"label": name, **braces},
    )


def parse_value(text: str) -> Any:
    """The value of an argument's text, which is Python but for references."""
    return eval(_PART.sub(_as_python, text), {"__builtins__": {}}, _Names())


def _as_python(part: re.Match[str]) -> str:
    if part["name"]:
        return f"Ref({_unquoted(part['name'])!r})"
    return "), dict(" if part["fields"] else part[0]


def _unquoted(name: str) -> str:
    return str(json.loads(name)) if name.startswith('"') else name


_OWN_NAMES: dict[str, Any] = {
    "Ref": Ref,
    "Opaque": Opaque,
    "slice": slice,
    "dict": dict,
    "inf": math.inf,
    "nan": math.nan,
    "_call": lambda *args, **kwargs: (args, kwargs),
}


class _Names(Mapping[str, Any]):
    """What names mean in the text: a few of our own, and else modules."""

    def __getitem__(self, name: str) -> Any:
        return _OWN_NAMES[name] if name in _OWN_NAMES else importlib.import_module(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_OWN_NAMES)

    def __len__(self) -> int:
        return len(_OWN_NAMES)

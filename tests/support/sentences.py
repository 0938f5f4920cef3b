"""Sentences with a way out, as the source says them: what is wrong; what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "tests" / "packaging" / "ways_out.txt"
"""Has a line for every sentence: the test that follows its way out, its file and its text, between tabs."""
_IN_PARTS = {"Untraceable": "{0}; {1}", "require_kind": "{2} is {{}}; {3}"}
"""Calls that make a sentence of their arguments."""
_SHORTEST = 12
"""Characters of a text that may be a sentence: ``"; ".join`` is none."""


class Sentence(NamedTuple):
    """A sentence: the file that says it, and its text on one line with ``{}`` for what is filled in."""

    file: str
    text: str


def followed_by(test: str) -> list[str]:
    """The texts of the sentences that a test follows, as the list says."""
    lines = [line.split("\t", 2) for line in LIST.read_text(encoding="utf-8").splitlines()]
    return [text for name, _, text in lines if name == test]


def the_one_with(words: str, test: str) -> str:
    """The text of the one sentence of those that a test follows in which some words stand."""
    found = [text for text in dict.fromkeys(followed_by(test)) if words in text]
    assert len(found) == 1, f"{words!r} stands in {found}"
    return found[0]


def is_said(text: str, message: str) -> bool:
    """True where a message holds a sentence of the list, with something filled in."""
    return re.search(".*".join(map(re.escape, re.split(r"\{\w*\}", text))), message, re.DOTALL) is not None


def sentences() -> list[Sentence]:
    """All texts of the package with a semicolon, but for docstrings and the help of settings, each once."""
    found: dict[Sentence, None] = {}
    for folder in ("qkd_deploy", "cli", "export"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = path.relative_to(ROOT)
            if file.parts[:2] not in (("qkd_deploy", "cli"), ("qkd_deploy", "export")):  # links to the folders above
                for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
                    found[Sentence(file.as_posix(), " ".join(text.split()))] = None
    return list(found)


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts below a node, those of which they are put together left out."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _IN_PARTS and node.args:
        yield _IN_PARTS[node.func.id].format(*map(_text, node.args))
        return
    if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
        text = _text(node)
        if "; " in text and len(text) > _SHORTEST:
            yield text
            return
    for child in ast.iter_child_nodes(node):
        if not _is_help(child):
            yield from _texts(child)


def _is_help(node: ast.AST) -> bool:
    """True for docstrings, types of settings (which hold their help) and help of options."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Name) and node.value.id == "Annotated"
    return isinstance(node, ast.keyword) and node.arg in ("help", "docs", "usual")


def _text(value: ast.expr) -> str:
    """The text of a literal, of an f-string, or of both in a sum; "{}" for everything else."""
    if isinstance(value, ast.Constant):
        return value.value if isinstance(value.value, str) else "{}"
    if isinstance(value, ast.JoinedStr):
        return "".join(_text(part) for part in value.values)
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _text(value.left) + _text(value.right)
    return "{}"

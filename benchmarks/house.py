"""How the house stands: layers, circles, sizes, density and where a kind of node is known.

    python benchmarks/house.py [--json FILE]

Arrows: imports at run time and for types alike, those inside functions too. A room is a package of the table below. Its
files may import from rooms under it, and within a room no files import each other in a circle. Branches: ``if``, loops,
conditional expressions, comprehensions and their conditions, ``and`` / ``or``, ``except`` and ``assert``, over the
lines of code of functions whose bodies have eight lines and more.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "qkd_deploy"

LAYERS = (
    "cli",
    "sweep",
    "report",
    "workflows",
    "handoff",
    "training",
    "mixed_precision",
    "bench",
    "verification",
    "export",
    "checkpoints",
    "calibration",
    "graph.integer",
    "graph.prepare",
    "graph.prepared",
    "graph.sized_graphs",
    "graph.translation",
    "graph.placement",
    "graph.passes",
    "graph.lower",
    "graph.ops",
    "graph.contract",
    "graph.trace",
    "graph.exact",
    "graph.modes",
    "graph.computed_tensors",
    "graph.lost_scales",
    "graph.quantizer_record",
    "graph.quantized",
    "graph.interpreter",
    "graph.input_sizes",
    "graph.ir",
    "graph.module_keys",
    "graph.replacements",
    "runtimes",
    "gate",
    "quantizers",
    "distill",
    "data",
    "tasks",
    "models",
    "pixels",
    "settings",
    "factory",
    "provenance",
    "atomic",
    "bits",
    "console",
    "errors",
)
"""Rooms from top to bottom; a file may import from its own room and from those below."""


def modules() -> dict[str, Path]:
    """Every module by its name without ``qkd_deploy.``; the package's own ``__init__`` is left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found[".".join(path.relative_to(PACKAGE).with_suffix("").parts)] = path
    for link in ("cli", "export"):  # links are not followed
        for path in sorted((ROOT / link).rglob("*.py")):
            found[f"{link}." + ".".join(path.relative_to(ROOT / link).with_suffix("").parts)] = path
    return {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}


def arrows(known: dict[str, Path]) -> dict[str, set[str]]:
    """For every module, the modules that it imports."""
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qkd_deploy."):
                source = str(node.module).removeprefix("qkd_deploy.")
                parts = {f"{source}.{alias.name}" for alias in node.names}
                found[name] |= {part if part in known else source for part in parts}
        found[name].discard(name)
    return found


def room(module: str) -> str:
    """The entry of ``LAYERS`` that a module lies in.

    Raises:
        LookupError: it lies in none.
    """
    inside = [layer for layer in LAYERS if module == layer or module.startswith(f"{layer}.")]
    if not inside:
        raise LookupError(f"{module} lies in no room of LAYERS")
    return max(inside, key=len)


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Arrows from a room to one above it."""
    return [
        f"{name} -> {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if LAYERS.index(room(other)) < LAYERS.index(room(name))
    ]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which reaches all others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def density(folder: Path) -> float:
    """Branches per line of code."""
    branches = lines = 0
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for body, size in _long_bodies(ast.parse(text), text.splitlines()):
            lines += size
            branches += sum(_branches(node) for statement in body for node in ast.walk(statement))
    return branches / lines if lines else 0.0


def _long_bodies(tree: ast.Module, source: list[str]) -> Iterator[tuple[list[ast.stmt], int]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                written = source[body[0].lineno - 1 : node.end_lineno]
                size = sum(bool(line.strip()) and not line.strip().startswith("#") for line in written)
                if size >= 8:
                    yield body, size


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return isinstance(node, (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.Assert, ast.match_case))


def kinds_known(known: dict[str, Path]) -> dict[str, int]:
    """For every kind of node, in how many files of ours it is named: as a string, or as its row."""
    from qkd_deploy.graph.ops import OPERATORS

    texts = [path.read_text(encoding="utf-8") for path in known.values()]
    found = {}
    for kind in OPERATORS:
        row = rf"\b{kind.upper()}\b"
        named = re.compile(rf"[\"']{re.escape(kind)}[\"']|{row}")
        found[kind] = sum(bool(named.search(text)) for text in texts)
    return found


def main() -> int:
    """Print one line a number; the exit status is 1 where an arrow runs up or there is a circle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers, too")
    options = parser.parse_args()
    known = modules()
    graph = arrows(known)
    up, loops = upward(graph), circles(graph)
    folders: dict[Path, int] = {}
    for path in known.values():
        folders[path.parent] = folders.get(path.parent, 0) + 1
    largest = max(folders, key=lambda folder: folders[folder])
    named = kinds_known(known)
    numbers = {
        "circles between files": len(loops),
        "arrows that run back up": len(up),
        "modules loose in qkd_deploy/": sum(path.stem != "__init__" for path in PACKAGE.glob("*.py")),
        "files in the largest folder": f"{folders[largest]} ({largest.relative_to(ROOT)})",
        "files that know a kind, median": statistics.median(named.values()),
        "files that know a kind, most": max((count, kind) for kind, count in named.items()),
        "branches per line, graph": round(density(PACKAGE / "graph"), 3),
        "branches per line, verification": round(density(PACKAGE / "verification"), 3),
        "lines of source": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in known.values()),
    }
    for name, value in numbers.items():
        print(f"{name:36}{value}")
    for problem in [*(f"circle: {' <-> '.join(group)}" for group in loops), *(f"up: {arrow}" for arrow in up)]:
        print(problem)
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1, default=str) + "\n", encoding="utf-8")
    return 1 if up or loops else 0


if __name__ == "__main__":
    sys.exit(main())

"""The reference is a second opinion: it shares nothing with the side that it judges."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import qkd_deploy.verification.reference as reference
from qkd_deploy.verification.reference import operators

FILES = sorted(Path(reference.__path__[0]).glob("*.py"))
ALLOWED = (
    "qkd_deploy.errors",
    "qkd_deploy.runtimes",
    "qkd_deploy.verification.onnx_graph",
    "qkd_deploy.verification.reference",
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_imports_nothing_of_the_torch_side(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names.append(str(node.module))
        for name in names:
            assert name.split(".")[0] != "torch"
            assert not name.startswith("qkd_deploy") or name.startswith(ALLOWED)


def test_nothing_that_it_imports_loads_torch() -> None:
    code = "import sys; import qkd_deploy.verification.reference.model; print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in loaded and "'torch'" not in loaded


def test_each_operator_is_known_by_one_family() -> None:
    names = [name for family in operators.FAMILIES for name in family.OPERATORS]
    assert sorted(names) == sorted(operators.OPERATORS)
    for name, row in operators.OPERATORS.items():
        assert row != operators.Operator(), f"the row of {name} says nothing"

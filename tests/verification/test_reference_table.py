"""The reference knows what the exporter writes: two tables that share no code, compared by the names of ONNX."""

from __future__ import annotations

import ast
from pathlib import Path

from onnx import defs

import qkd_deploy.export
from qkd_deploy.verification.reference.operators import OPERATORS

EXPORT = Path(next(iter(qkd_deploy.export.__path__)))
BORDERS = {"QuantizeLinear", "DequantizeLinear"}
"""What the interpreter itself is made of."""
IN_FLOAT = {"HardSigmoid", "InstanceNormalization", "LayerNormalization", "ScatterElements", "Shape", "Tanh"}
"""What the reference leaves to the runtime: operators that are written for floats and sizes only."""


def written() -> set[str]:
    """Names of ONNX operators in the code of the emitters."""
    found: set[str] = set()
    for path in [*EXPORT.glob("*.py"), *EXPORT.glob("ops/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                found.update(word for word in words if isinstance(word, str) and defs.has(word))
    return found


def test_the_reference_knows_every_operator_that_emitters_write() -> None:
    assert len(written()) > 30
    assert written() - OPERATORS.keys() == BORDERS | IN_FLOAT

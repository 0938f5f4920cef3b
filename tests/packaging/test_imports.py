"""What importing the package costs, and under which names its parts can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import qkd_deploy
from qkd_deploy.cli.main import COMMANDS

CHECKOUT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "numpy",
    "rich",
    "matplotlib",
    "tensorboard",
    "pycocotools",
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a new interpreter in the root of the checkout."""
    return subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import qkd_deploy",
        "import qkd_deploy; dir(qkd_deploy)",
        "from qkd_deploy.cli.main import main; assert main(['--help']) == 0",
        "from qkd_deploy.cli.main import main; assert main(['--version']) == 0",
        "from qkd_deploy.cli.main import main; assert main(['trian']) == 2",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    result = python(f"import sys; {code}; sys.stderr.write(' '.join(['modules:', *sys.modules]))")
    assert result.returncode == 0, result.stderr
    loaded = result.stderr.split("modules:")[1].split()
    assert "qkd_deploy" in loaded
    assert HEAVY.isdisjoint(loaded)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    test_nothing_heavy_is_imported(f"from qkd_deploy.cli.main import main; assert main(['{name}', '--help']) == 0")


@pytest.mark.parametrize("name", qkd_deploy.__all__)
def test_public_names_exist(name: str) -> None:
    value = getattr(qkd_deploy, name)
    assert value is getattr(qkd_deploy, name)
    assert name in dir(qkd_deploy)
    assert name == "__version__" or value.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        qkd_deploy.quantise  # noqa: B018


@pytest.mark.parametrize("name", ["cli", "export"])
def test_top_level_folders_are_no_modules_of_their_own(name: str) -> None:
    assert python(f"import qkd_deploy.{name}").returncode == 0
    result = python(f"import {name}")
    assert result.returncode != 0
    assert f"import qkd_deploy.{name} instead" in result.stderr

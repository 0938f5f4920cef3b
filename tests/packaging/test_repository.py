"""Promises of the repository itself: the two commands of the README, and files that fit every machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDERS = (".ci", "qkd_deploy", "cli", "export", "tests", "examples", "benchmarks", "docs")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

DEMO = """\
rm -rf runs/demo
.venv/bin/qkd-deploy train --out runs/demo
.venv/bin/qkd-deploy export --bits w4a4 --output runs/demo/model.onnx runs/demo/model.pt
.venv/bin/qkd-deploy verify runs/demo/model.onnx --dataset digits --checkpoint runs/demo/model.pt --require-integer
.venv/bin/qkd-deploy report runs/demo runs/demo/model.onnx
"""


def repository_files() -> list[Path]:
    """The text files of the repository, in a clone as well as in an unpacked source archive."""
    found = [path for path in CHECKOUT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (CHECKOUT / folder).rglob("*") if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and b"\0" not in path.read_bytes()]


def make(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run make as from a terminal, also when the tests themselves run under make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_no_file_names_a_path_of_one_machine() -> None:
    local = re.compile(r"(?<![\w.}>])/(?:home|Users|root|work|tmp/build)/")
    named = [
        f"{path.relative_to(CHECKOUT)}:{number}: {line.strip()}"
        for path in repository_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if local.search(line)
    ]
    assert named == []


def test_links_lead_to_the_top_level_folders() -> None:
    for name in ("cli", "export"):
        assert (CHECKOUT / "qkd_deploy" / name).resolve() == CHECKOUT / name


def test_links_between_the_documents_lead_somewhere() -> None:
    dead = [
        f"{document.relative_to(CHECKOUT)}: {target}"
        for document in [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#]+)", without_code(document.read_text(encoding="utf-8")))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert dead == []


def without_code(text: str) -> str:
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


@needs_make
def test_make_demo_runs_the_four_commands(tmp_path: Path) -> None:
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    installed = tmp_path / ".venv" / ".installed"
    installed.parent.mkdir()
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tmp_path / name).touch()
    for name in (".venv/bin", "qkd_deploy/cli", "qkd_deploy/export"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".venv/bin/pip").touch()
    result = make("-n", "demo", cwd=tmp_path)
    assert result.stdout == DEMO, result.stderr


@needs_make
def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, tmp_path)
    result = make("PYTHON=no-such-python", "demo", cwd=tmp_path)
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert "tried 'no-such-python'" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_constraints_pin_every_requirement() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {normalized(name): version for name, version in pins.items()}
    for requirement in (requirement for group in groups for requirement in group):
        name, minimum = requirement.partition(";")[0].split(">=")
        assert numbers(pinned[normalized(name)]) >= numbers(minimum), requirement


def normalized(name: str) -> str:
    """The name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))

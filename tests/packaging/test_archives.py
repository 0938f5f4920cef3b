"""The wheel and the source archive: what they hold, and that an installed wheel works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LINKS = ("qkd_deploy/cli", "qkd_deploy/export")
pytestmark = pytest.mark.slow


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command without the variables that could lead it back to the checkout; return what it wrote to stdout."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(kind: str, source: Path, output: Path) -> Path:
    """Build the archive ``kind`` (wheel or sdist) of ``source`` with the installed hatchling."""
    run([sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", output, source], cwd=output.parent)
    (archive,) = output.iterdir()
    return archive


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, without the record of their digests."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def importable_sources() -> set[str]:
    """The path in a wheel of every file of the three folders of the checkout."""
    roots = {"qkd_deploy": "qkd_deploy", "cli": "qkd_deploy/cli", "export": "qkd_deploy/export"}
    return {
        f"{name}/{path.relative_to(CHECKOUT / root).as_posix()}"
        for root, name in roots.items()
        for path in (CHECKOUT / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        if not any(path.is_relative_to(CHECKOUT / link) for link in LINKS)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", CHECKOUT, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", CHECKOUT, tmp_path_factory.mktemp("sdist") / "dist")


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], cwd=folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    purelib = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=folder).strip())
    # A folder named in a .pth file comes last on sys.path and its own .pth files, editable installs, are not read.
    (purelib / "dependencies.pth").write_text("\n".join(p for p in sys.path if Path(p).name == "site-packages"))
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], cwd=folder)
    return python


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    package = {name for name in names if name.startswith("qkd_deploy/")}
    assert package == importable_sources()
    assert {"qkd_deploy/py.typed", "qkd_deploy/cli/main.py", "qkd_deploy/export/__init__.py"} <= package
    assert {Path(name).parts[0].split("-")[0] for name in names - package} == {"qkd_deploy"}  # its dist-info
    assert all(".dist-info/" in name for name in names - package)


def test_wheel_built_from_the_sdist_is_the_same(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        archive.extractall(tmp_path, filter="data")
    assert not [member.name for member in members if member.issym() or member.islnk()]
    (source,) = tmp_path.iterdir()
    for name in ("cli/main.py", "export/__init__.py", "tests/conftest.py", "Makefile", "constraints.txt", "LICENSE"):
        assert (source / name).is_file(), name
    assert contents(build("wheel", source, tmp_path / "dist")) == contents(wheel)


def test_wheel_is_the_same_where_links_are_plain_files(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for link in LINKS:  # what git checks out with core.symlinks=false
        (source / link).write_text(f"../{Path(link).name}")
    assert contents(build("wheel", source, tmp_path / "dist")) == contents(wheel)


def test_installed_command_runs_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    command = python.with_name("qkd-deploy")
    assert run([command, "--version"], cwd=tmp_path).startswith("qkd-deploy ")
    assert "verify" in run([command, "--help"], cwd=tmp_path)


@pytest.mark.parametrize("name", ["qkd_deploy", "qkd_deploy.cli.main", "qkd_deploy.export"])
def test_modules_come_from_the_installed_wheel(python: Path, tmp_path: Path, name: str) -> None:
    code = f"import importlib; print(importlib.import_module({name!r}).__file__)"
    place = Path(run([python, "-c", code], cwd=tmp_path).strip())
    assert place.is_relative_to(python.parents[1])
    assert not place.is_relative_to(CHECKOUT)


def test_embedded_data_set_loads_from_the_installed_wheel(python: Path, tmp_path: Path) -> None:
    code = "import qkd_deploy as qkd; d = qkd.load_dataset('digits'); print(len(d.train.labels) + len(d.test.labels))"
    assert int(run([python, "-c", code], cwd=tmp_path)) == 1797


@pytest.mark.parametrize("name", ["cli", "export"])
def test_no_top_level_module_is_installed(python: Path, tmp_path: Path, name: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert run([python, "-c", code], cwd=tmp_path).strip() == "None"

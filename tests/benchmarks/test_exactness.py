"""The exactness table counts what really differs, and never passes over what it could not run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exactness
import numpy as np
import pytest
from deployment import SATURATES
from exactness_environments import Environment
from exactness_models import build_files
from exactness_table import all_equal, markdown

MARKERS = "<!-- exactness: begin -->\n", "<!-- exactness: end -->\n"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the benchmark in a folder of its own; gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["exactness.py", *arguments])
        return exactness.main()

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """A small network at W8A8, in the default and in the full weight range."""
    return list(build_files("resnet8", [("w8a8", "narrow"), ("w8a8", "full")], 1, tmp_path_factory.mktemp("files")))


def cells(environment: Any, files: list[Any]) -> list[dict[str, Any]]:
    found = exactness.run(environment, files, None, 300.0)
    return [exactness.cell(file, found[file.folder.name]) for file in files]


def test_the_table_says_what_is_equal_and_what_did_not_run(program: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"before\n{MARKERS[0]}outdated\n{MARKERS[1]}after\n")
    arguments = ["--models", "resnet8", "--bits", "w2a2", "--images", "1", "--only", "installed,arm64"]
    assert program(*arguments, "--json", "out.json", "--table", "page.md") == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [(row["bits"], row["weights"]) for row in report["rows"]] == [("w2a2", "int8"), ("w2a2", "packed")]
    for row in report["rows"]:
        assert row["codes"] > 100_000
        assert (row["environments"]["installed"]["codes"], row["environments"]["installed"]["outputs"]) == (0, 0)
        assert "exactness_environments.py" in row["environments"]["arm64"]["error"]
    assert {"commit", "cpu", "packages"} <= report["provenance"].keys()
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "outdated" not in page
    assert f"| resnet8 | W2A2 | packed | {report['rows'][1]['codes']:,} | 0 | not run |" in page
    assert "- arm64: 2 files not run: give --environments" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "resnet8", "--only", "moon"], "unknown environment 'moon'"),
        (["--models", "resnet9", "--only", "installed"], "unknown model 'resnet9'"),
        (["--update", "--only", "installed"], "--update needs the file of an earlier run"),
        (["--models", "resnet8", "--images", "0"], "cannot compare on 0 inputs"),
        (["--models", "resnet8", "--bits", "w9a9", "--only", "installed"], "bits 'w9a9' are out of range"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    words: str,
    program: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program(*arguments, "--json", "out.json") == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.splitlines()[-1].startswith("error: ") and words in written.err
    assert not (tmp_path / "out.json").exists()


def test_one_changed_code_is_counted_and_its_operator_named(files: list[Any]) -> None:
    path = files[0].folder / "expected.npz"
    with np.load(path) as stored:
        wanted = dict(stored)
    name = next(name for name, (_, operator) in files[0].operators.items() if operator == "Add")
    changed = wanted[name].copy()
    changed.flat[7] ^= 1
    try:
        np.savez(path, **{**wanted, name: changed})
        found = cells(Environment("here", "", runtime=None), files[:1])[0]
    finally:
        np.savez(path, **wanted)
    assert (found["codes"], found["outputs"]) == (1, 0)
    assert (found["first"]["operator"], found["first"]["of"]) == ("Add", 1)
    row = {"model": "m", "bits": "w8a8", "weights": "int8", "weight_range": "narrow", "codes": 9, "loose": 0}
    rows = [{**row, "environments": {"here": found}}]
    record = {"rows": rows, "environments": [{"name": "here", "about": "a CPU", "threads": 1}]}
    assert not all_equal(rows)
    assert "| m | W8A8 | int8 | 9 | 1 |" in markdown(record)
    assert f"first in `{found['first']['module']}` (Add), 1 codes of" in markdown(record)


def test_a_file_that_stops_the_worker_does_not_hide_the_others(files: list[Any], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "expected.npz").write_bytes(b"")
    named = type(files[0])(**{**vars(files[0]), "folder": broken})
    found = exactness.run(Environment("here", "", runtime=None), [named, files[0]], None, 300.0)
    assert "error" in exactness.cell(named, found["broken"])
    assert exactness.cell(files[0], found[files[0].folder.name])["codes"] == 0


def expected_on(vnni: bool, found: list[dict[str, Any]]) -> None:
    """The default range is exact; the full range saturates without VNNI, first in the first convolution."""
    assert (found[0]["codes"], found[0]["outputs"]) == (0, 0)
    assert (found[1]["codes"] == 0) == vnni
    if not vnni:
        assert found[1]["first"]["operator"] == "Conv"


def test_this_cpu(files: list[Any]) -> None:
    expected_on(not SATURATES, cells(Environment("here", "", runtime=None), files))


@pytest.mark.skipif(shutil.which("qemu-x86_64-static") is None, reason="qemu-user-static is not installed")
def test_an_emulated_cpu_without_vnni(files: list[Any]) -> None:
    haswell = Environment("AVX2", "", runtime=None, emulated=("x86_64", "Haswell"))
    expected_on(False, cells(haswell, files))

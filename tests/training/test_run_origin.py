"""Who trained a run: a line for each process, and none that is not one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from qkd_deploy.provenance import UNKNOWN
from qkd_deploy.training.run_origin import add_origin, read_origins

ROOT = Path(__file__).parents[2]


def test_a_run_goes_on_with_its_lines_and_a_new_one_without(tmp_path: Path) -> None:
    add_origin(tmp_path, "first", resume=False)
    add_origin(tmp_path, "second", resume=True)
    assert [origin.command for origin in read_origins(tmp_path)] == ["first", "second"]
    add_origin(tmp_path, "", resume=False)
    (origin,) = read_origins(tmp_path)
    assert origin.command == "qkd_deploy.training.run.train, called from Python"
    assert origin.date.endswith("+00:00") and origin.version and origin.cpu


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")
def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    add_origin(tmp_path, "x", resume=False)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit = read_origins(tmp_path)[0].commit
    assert commit.removesuffix("+changes") == (done.stdout.strip() or UNKNOWN)


@pytest.mark.parametrize("line", ["", "{}", "[1]", '{"command": 1}', "\xff", '{"command": "x"'])
def test_lines_that_are_none_are_left_out(tmp_path: Path, line: str) -> None:
    add_origin(tmp_path, "x", resume=False)
    known = json.loads((tmp_path / "origin.jsonl").read_text())
    wrong = json.dumps({**known, "commit": 5})
    (tmp_path / "origin.jsonl").write_bytes(f"{line}\n{json.dumps(known)}\n{wrong}\n".encode("latin-1"))
    assert [origin.command for origin in read_origins(tmp_path)] == ["x"]


def test_an_old_run_has_none(tmp_path: Path) -> None:
    assert read_origins(tmp_path) == []

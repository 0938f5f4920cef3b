"""The command line as a process, and a tiny trained model for it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TRAINING = "train --model plaincnn --method qat --epochs 1 --pretrain-epochs 2 --out run"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the installed script in a folder."""
    script = Path(sys.executable).with_name("qkd-deploy")

    def call(line: str, cwd: Path, stdout: Path | None = None) -> Outcome:
        with (stdout or Path(os.devnull)).open("w") as other:
            out = subprocess.PIPE if stdout is None else other
            command = [str(script), *shlex.split(line)]
            done = subprocess.run(command, cwd=cwd, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
        return Outcome(done.returncode, done.stdout or "", done.stderr)

    return call


@pytest.fixture(scope="session")
def warm_run() -> Iterator[Run]:
    """Run the command line in a fork of a warm process; many times faster, otherwise the same."""
    program = [sys.executable, str(Path(__file__).with_name("warm_process.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def call(line: str, cwd: Path, largest_file: int | None = None) -> Outcome:
            requests.write(
                json.dumps({"args": shlex.split(line), "cwd": str(cwd), "largest_file": largest_file}) + "\n"
            )
            requests.flush()
            return Outcome(**json.loads(answers.readline()))

        yield call
        requests.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, warm_run: Run) -> Path:
    """A folder with run/ (a finished training run), model.pt and model.onnx."""
    folder = tmp_path_factory.mktemp("trained")
    for line in (TRAINING, "export run/model.pt --output model.onnx"):
        done = warm_run(line, folder)
        assert done.code == 0, done.err
    (folder / "model.pt").write_bytes((folder / "run" / "model.pt").read_bytes())
    return folder

"""A sweep as a user runs it: killed, interrupted, continued, changed, and with an entry that fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from qkd_deploy.models import create_model
from qkd_deploy.sweep.plan import read_plan

CLI = str(Path(sys.executable).with_name("qkd-deploy"))
SWEEP = """
[settings]
model = "plaincnn"
init = "start.pt"
teacher = "plaincnn"
teacher_checkpoint = "start.pt"
epochs = 8
first_last_bits = 4
lr = 0.05

[grid]
method = ["qat", "kd"]
seed = [0, 1]

[verify]
tolerance = 3
require_integer = true
"""


def sweep(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "s.toml").write_text(text)
    return subprocess.run([CLI, "sweep", "s.toml", *options], cwd=folder, capture_output=True, text=True)


def cut_off(folder: Path, entry: str, end: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str]:
    """Start the sweep, and end it in the middle of an entry's training; returns the exit code and stderr."""
    with subprocess.Popen(
        [CLI, "sweep", "s.toml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # programs that are started in the background inherit that SIGINT is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        metrics = folder / "runs" / "s" / entry / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text()):  # an epoch is over
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        end(process)
        _, errors = process.communicate()
    return process.returncode, errors


def kill_all(process: subprocess.Popen[str]) -> None:
    """What a power failure does: neither the sweep nor the command it runs hears of it."""
    for child in children(process.pid):
        os.kill(child, signal.SIGKILL)
    process.kill()


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


def commands(folder: Path, entry: str) -> list[str]:
    """The commands that ran for an entry, and whether they continued."""
    lines = (folder / "runs" / "s" / entry / "log.txt").read_text().splitlines()
    called = [line.split() for line in lines if line.startswith("$ qkd-deploy ")]
    return [words[2] + (" --resume" if "--resume" in words else "") for words in called]


def results(folder: Path) -> Any:
    return json.loads((folder / "runs" / "s" / "results.json").read_text())


WHOLE = ["train", "export", "verify"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("ps") is None, reason="children are found with ps --ppid")
def test_a_sweep_from_start_to_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(create_model("plaincnn", 10, 1).state_dict(), tmp_path / "start.pt")
    (tmp_path / "s.toml").write_text(SWEEP)
    qat0, qat1, kd0, kd1 = (entry.id for entry in read_plan(tmp_path / "s.toml").entries)

    code, _ = cut_off(tmp_path, qat0, kill_all)
    assert code == -signal.SIGKILL
    code, errors = cut_off(tmp_path, qat1, lambda process: process.send_signal(signal.SIGINT))
    assert (code, errors.splitlines()[-1]) == (130, "Interrupted.")
    assert "Traceback" not in errors
    assert commands(tmp_path, qat0) == ["train", "train --resume", "export", "verify"]
    assert [entry["verified"] for entry in results(tmp_path)["entries"]] == [True, False, False, False]

    done = sweep(tmp_path, SWEEP, "--jobs", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert "4 entries, 1 of them finished before" in done.stderr
    assert commands(tmp_path, qat0) == ["train", "train --resume", "export", "verify"]
    assert commands(tmp_path, qat1) == ["train", "train --resume", "export", "verify"]
    assert commands(tmp_path, kd0) == commands(tmp_path, kd1) == WHOLE
    found = json.loads(done.stdout)
    assert found == results(tmp_path)
    for entry in found["entries"]:
        assert entry["verified"] and entry["differing_codes"] == 0 and entry["float_operations"] == 0
        report = json.loads((tmp_path / "runs" / "s" / entry["id"] / "verify.json").read_text())
        assert entry["accuracy"] == report["accuracy"]["runtime"] == entry["frozen"]
        assert entry["figures"] == report["figures"]["runtime"]
    accuracies = [entry["accuracy"] for entry in found["entries"][:2]]
    assert found["combinations"][0]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert (found["combinations"][0]["low"], found["combinations"][0]["high"]) == (min(accuracies), max(accuracies))

    # A changed file runs only what is new: here an entry that fails, which does not stop the other.
    before = {entry: len(commands(tmp_path, entry)) for entry in (qat0, qat1, kd0, kd1)}
    changed = SWEEP.replace('init = "start.pt"\n', "").replace('["qat", "kd"]', '["kd"]')
    failed = sweep(tmp_path, changed.replace("seed = [0, 1]", 'seed = [0]\ninit = ["no.pt", "start.pt"]'))
    assert failed.returncode == 1, failed.stderr
    reason = "train: no.pt does not exist; check the path (exit code 2)"
    assert f"not verified: method kd, seed 0, init no.pt: {reason}" in failed.stdout
    assert f": {reason}" in (tmp_path / "runs" / "s" / "results.md").read_text()
    assert [(entry["id"] == kd0, entry["verified"]) for entry in results(tmp_path)["entries"]] == [
        (False, False),
        (True, True),
    ]
    assert {entry: len(commands(tmp_path, entry)) for entry in before} == before

    with FileLock(tmp_path / "runs" / "s" / ".lock"):
        second = sweep(tmp_path, SWEEP)
    assert (second.returncode, len(second.stderr.splitlines())) == (2, 1)
    assert "another sweep is running in runs/s" in second.stderr


def test_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    done = sweep(tmp_path, "[grid]\nmethod = ['qdk']\n")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "did you mean 'qkd'?" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]
    (tmp_path / "file").touch()
    done = sweep(tmp_path, SWEEP, "--out", "file")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "choose another --out" in done.stderr

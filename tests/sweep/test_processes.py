"""Commands as processes: which ends are failures, and how they are told."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qkd_deploy.sweep import processes
from qkd_deploy.sweep.processes import Processes, StepFailed, Stopped


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command is a line for the shell, which starts faster than ours."""
    monkeypatch.setattr(processes, "_CLI", ("/bin/sh", "-c"))


def run(folder: Path, line: str, answer: Path | None = None) -> str:
    """The reason why a command counts as failed; empty where it does not."""
    try:
        Processes().run([line], folder / "log.txt", answer=answer)
    except StepFailed as failure:
        return str(failure).removeprefix(f"{line}: ")
    return ""


def test_the_last_line_says_why_a_command_failed(tmp_path: Path) -> None:
    assert run(tmp_path, "exit 0") == ""
    assert run(tmp_path, "echo working >&2; echo 'Error: no such data' >&2; exit 2") == "no such data (exit code 2)"
    assert run(tmp_path, "exit 3") == "exit code 3"  # not the last line of an earlier command
    assert run(tmp_path, "kill -9 $$") == "signal 9"
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("$ qkd-deploy exit 0\n") and log.count("$ qkd-deploy") == 4 and "\nworking\n" in log


def test_a_failed_check_is_an_answer_and_a_breakdown_is_not(tmp_path: Path) -> None:
    answer = tmp_path / "verify.json"
    assert run(tmp_path, f"echo '{{}}' > {answer}; exit 1", answer) == ""
    assert run(tmp_path, "echo 'ImportError: x' >&2; exit 1", answer) == "ImportError: x (exit code 1)"
    assert not answer.exists()
    assert run(tmp_path, f"echo '{{}}' > {answer}; exit 2", answer) == "exit code 2"
    assert run(tmp_path, "exit 1") == "exit code 1"


def test_stopping_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    running, ended = Processes(), []

    def call() -> None:
        try:
            running.run([f"touch {tmp_path / 'begun'}; exec sleep 600"], tmp_path / "log.txt")
        except Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=call)
    thread.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    running.stop()
    thread.join()
    assert ended == ["stopped"]
    with pytest.raises(Stopped):
        running.run([f"touch {tmp_path / 'more'}"], tmp_path / "log.txt")
    assert not (tmp_path / "more").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the command is looked up in /proc")
def test_a_command_ends_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    """Kill -9 of the sweep's process: nobody tells the command, which notices."""
    command = (
        "import os, pathlib, sys, time; from qkd_deploy.sweep.orphan import end_with_parent; end_with_parent(); "
        "assert sys.stdin.read() == ''; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
    )
    sweep = (
        "import sys; from pathlib import Path; from qkd_deploy.sweep import processes; "
        f"processes._CLI = (sys.executable, '-c', {command!r}); "
        "processes.Processes().run([sys.argv[1]], Path(sys.argv[1] + '.log'))"
    )
    note = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", sweep, str(note)]) as process:
        while not (note.exists() and note.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    command_id, deadline = int(note.read_text()), time.monotonic() + 60
    while Path(f"/proc/{command_id}").exists() and "Z" not in Path(f"/proc/{command_id}/stat").read_text():
        assert time.monotonic() < deadline, "the command still runs"
        time.sleep(0.01)

"""Runs that are killed, interrupted or out of disk, as real processes."""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import qkd_deploy.training.start.run_state as run_state
from qkd_deploy.atomic import atomic_write
from qkd_deploy.checkpoints import torch_file
from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.cli.main import main

KILLS = 20
SETTINGS = shlex.split(
    "--model plaincnn --teacher plaincnn --epochs 2,3,2 --pretrain-epochs 2 --teacher-pretrain-epochs 2 "
    "--batch-size 200 --evaluate-limit 40 --threads 1 --ema 0.9 --bn-batches 2"
)
EPOCHS = 11


def start(folder: Path, arguments: list[str], spoil: Callable[[], None] | None = None) -> int:
    """Run ``qkd-deploy train`` in a fork of this process, after ``spoil`` there; returns its process id.

    A fork is a process of its own, and it starts in milliseconds.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # instead of those of pytest
        if spoil is not None:
            spoil()
        code = main(["train", "--out", str(folder), *arguments])
    except BaseException:  # noqa: BLE001 - shown by the test
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(folder: Path, arguments: list[str]) -> None:
    code = wait(start(folder, arguments))
    assert code == 0, folder.with_suffix(".log").read_text()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """No thread pool must exist before a fork."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("crashes") / "whole"
    finish(folder, SETTINGS)
    return folder


def results(folder: Path) -> tuple[Any, ...]:
    """Weights of student and teacher, and metrics without their timings."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["images_per_second"]
    states = [load_checkpoint(folder / name).state_dict for name in ("model.pt", "teacher.pt")]
    return [{name: value.numpy().tobytes() for name, value in state.items()} for state in states], lines


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*.tmp")]


@pytest.mark.slow
def test_a_run_killed_at_random_points_ends_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Kill -9 after random times, until at least 20 processes have died; each goes on where the last one was killed."""
    random.seed(4)
    kills, folder, number = 0, tmp_path / "run-0", 0
    while kills < KILLS:
        arguments = ["--resume"] if (folder / "config.toml").exists() else SETTINGS
        pid = start(folder, arguments)
        deadline = time.monotonic() + random.uniform(0.02, 0.6)
        while time.monotonic() < deadline and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        code = wait(pid)
        assert code in (0, -signal.SIGKILL), folder.with_suffix(".log").read_text()
        kills += code != 0
        if code == 0:
            assert results(folder) == results(whole)
            number += 1
            folder = tmp_path / f"run-{number}"
    finish(folder, ["--resume"] if (folder / "config.toml").exists() else SETTINGS)
    assert results(folder) == results(whole)
    assert not leftovers(folder)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_the_middle_of_a_checkpoint(number: int) -> Callable[[], None]:
    """Half of the file is on the disk when the process dies."""

    def spoil() -> None:
        count = 0

        def save_half(path: Path, content: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if count < number:
                torch_file.save_tensors(path, content)
                return
            with atomic_write(path) as temporary:
                torch.save(content, temporary)
                size = temporary.stat().st_size
                with temporary.open("rb+") as file:
                    file.truncate(size // 2)
                die()

        run_state.save_tensors = save_half

    return spoil


def before_epoch(number: int) -> Callable[[], None]:
    """After the checkpoint of an epoch, before anything of the next one: between stages and phases too."""

    def spoil() -> None:
        count = 0

        def save(path: Path, content: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            torch_file.save_tensors(path, content)
            if count == number:
                die()

        run_state.save_tensors = save

    return spoil


def after_metrics(number: int) -> Callable[[], None]:
    """The epoch is in metrics.jsonl, but not in the checkpoint."""

    def spoil() -> None:
        count = 0

        def save(path: Path, content: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if count == number:
                die()
            torch_file.save_tensors(path, content)

        run_state.save_tensors = save

    return spoil


@pytest.mark.parametrize("spoil", [in_the_middle_of_a_checkpoint, before_epoch, after_metrics])
# of the states: 1 is the start, 2-3 pre-train the teacher, 4-5 the student, 6-7 self-study, 8-10 co-study, 11-12 tutor
@pytest.mark.parametrize("number", [2, 5, 7, 10, EPOCHS + 1])
def test_a_run_killed_at_a_bad_moment_ends_in_the_same_bits(
    whole: Path, tmp_path: Path, spoil: Callable[[int], Callable[[], None]], number: int
) -> None:
    folder = tmp_path / "run"
    assert wait(start(folder, SETTINGS, spoil(number))) == -signal.SIGKILL
    assert bool(leftovers(folder)) is (spoil is in_the_middle_of_a_checkpoint)
    finish(folder, ["--resume"])
    assert results(folder) == results(whole)
    assert not leftovers(folder)


def test_a_run_killed_before_it_is_one_can_be_started(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert wait(start(folder, SETTINGS, before_epoch(1))) == -signal.SIGKILL
    assert not (folder / "config.toml").exists()
    finish(folder, SETTINGS)
    assert results(folder) == results(whole)


def heed_interrupts() -> None:
    """What runs in the background of a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_a_run_that_can_be_continued(
    whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "run"
    script = Path(sys.executable).with_name("qkd-deploy")
    command = [str(script), "train", "--out", str(folder), *SETTINGS]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=heed_interrupts, **pipes) as process:
        while not (folder / "checkpoints/previous.pt").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == code
    assert out == "" and "Traceback" not in err
    assert f"continue with: qkd-deploy train --out {folder} --resume" in err
    assert not leftovers(folder)
    finish(folder, ["--resume"])
    assert results(folder) == results(whole)


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pid = start(folder, [*SETTINGS, "--epochs", "50"])
    try:
        while not (folder / "checkpoints/previous.pt").exists():
            time.sleep(0.01)
        assert wait(start(folder, ["--resume"])) == 2
        assert "another run is training in" in folder.with_suffix(".log").read_text()
    finally:
        os.kill(pid, signal.SIGKILL)
        wait(pid)


def small_files(size: int) -> Callable[[], None]:
    def spoil() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return spoil


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system with that much space, where this process may mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(whole: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1000):
        folder = tmp_path / "disk/run"
        log = folder.with_suffix(".log")
        assert wait(start(folder, SETTINGS)) == 2
        lines = log.read_text().splitlines()
        assert "Traceback" not in log.read_text()
        assert lines[-1].startswith("Error: cannot write")
        assert "No space left on device" in lines[-1] and "free some space" in lines[-1]
        assert not leftovers(folder)
        good = (folder / "checkpoints/last.pt").read_bytes()
        subprocess.run(["mount", "-o", "remount,size=30000k", str(tmp_path / "disk")], check=True)
        assert (folder / "checkpoints/last.pt").read_bytes() == good
        finish(folder, ["--resume"])
        assert results(folder) == results(whole)


def test_files_that_cannot_grow_are_reported(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    size = (whole / "checkpoints/last.pt").stat().st_size
    assert wait(start(folder, SETTINGS, small_files(size // 2))) == 2
    last = folder.with_suffix(".log").read_text().splitlines()[-1]
    assert last.startswith("Error: cannot write") and "free some space" in last
    assert not leftovers(folder)

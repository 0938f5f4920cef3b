"""Several real processes on one machine, exchanging gradients with gloo."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.data import Split, load_dataset
from qkd_deploy.errors import UserError
from qkd_deploy.training.loop.batches import BatchStream
from qkd_deploy.training.monitoring.progress import NoProgress
from qkd_deploy.training.run import train
from qkd_deploy.training.run_folder import config_of_run

NETWORK = """
from torch import nn

def make(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, num_classes),
    )
"""
LAST_WORDS = """
import atexit, json, pathlib

def say(line):
    print(line + "\\n", end="", flush=True)  # in one piece: two processes share stdout

def threads():
    return sorted(path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm"))

atexit.register(lambda: say(f"at exit {json.dumps(threads())}"))  # runs last: handlers run in reverse order

from qkd_deploy.errors import UserError
from qkd_deploy.training.config import make_config
from qkd_deploy.training.run import train

settings = {"method": "qat", "epochs": 1, "pretrain_epochs": 1, "batch_size": 96, "device": "cpu", "threads": 1}
for wrong in ({"device": "cpu:0"}, {"batch_size": 95}, {"sync_batch_norm": True}):
    try:
        train(make_config({**settings, **wrong}), "run")
    except UserError as error:
        say(f"refused {error}")
train(make_config(settings), "run")
train(make_config(settings), "run", resume=True)
say(f"trained {json.dumps(threads())}")
"""
SETTINGS = shlex.split(
    "--epochs 1,1,1 --pretrain-epochs 2 --teacher-pretrain-epochs 2 --batch-size 96 --device cpu --threads 1 --json"
)
BIN = Path(sys.executable).parent


def printed(folder: Path, command: list[str], processes: int = 1) -> str:
    """What ``command`` prints, started in ``processes`` processes."""
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        rendezvous = ["--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", str(port)]
        command = [str(BIN / "torchrun"), *rendezvous, "--no-python", *command]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained(folder: Path, name: str, arguments: list[str], processes: int = 1) -> dict[str, Any]:
    """Run the command line in ``processes`` processes; its result as JSON."""
    command = [str(BIN / "qkd-deploy"), "train", "--out", name, *SETTINGS, *arguments]
    result: dict[str, Any] = json.loads(printed(folder, command, processes))
    return result


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_at_the_same_global_batch(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(NETWORK)
    networks = ["--model", "plain:make", "--teacher", "plain:make"]
    one = trained(tmp_path, "one", networks)
    two = trained(tmp_path, "two", networks, processes=2)
    ours, theirs = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["phase"] for line in ours] == [line["phase"] for line in theirs]
    assert len(ours) == 7
    for mine, other in zip(ours, theirs, strict=True):
        for role, terms in mine["losses"].items():
            # averaging in another order rounds otherwise, and now and then a code flips
            assert other["losses"][role] == pytest.approx(terms, rel=5e-3, abs=5e-4), mine["phase"]
    assert ours[-1]["losses"]["student"]["ce"] < 0.7 * ours[0]["losses"]["teacher"]["ce"]  # they do learn
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=1.0)
    weights = [load_checkpoint(tmp_path / name / "model.pt").state_dict for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-3, rtol=2e-3, msg=name)


@pytest.mark.slow
def test_batch_norms_co_study_and_averages_in_two_processes(tmp_path: Path) -> None:
    arguments = [
        "--model",
        "plaincnn",
        "--teacher",
        "plaincnn",
        "--accumulate",
        "2",
        "--ema",
        "0.9",
        "--bn-batches",
        "2",
    ]
    result = trained(tmp_path, "run", arguments, processes=2)
    lines = metrics(tmp_path / "run")
    assert len(lines) == 7  # written by one process
    assert result["images"] == 359 and 0 < result["accuracy"] <= 100
    assert lines[-1]["losses"]["student"]["ce"] < lines[2]["losses"]["student"]["ce"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for two processes, and with ``last_words`` for their run."""
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def last_words(shared: Path) -> list[str]:
    """What two processes print that are refused three times before they train and resume."""
    (shared / "own.py").write_text(LAST_WORDS)
    return printed(shared, [sys.executable, "own.py"], processes=2).splitlines()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed by Linux")
def test_threads_of_the_exchange_end_before_python_does(last_words: list[str]) -> None:
    before, ended = (
        [json.loads(line[7:]) for line in last_words if line.startswith(key)] for key in ("trained", "at exit")
    )
    assert len(before) == len(ended) == 2
    assert all(any("gloo" in thread for thread in threads) for threads in before)
    assert not any("gloo" in thread for threads in ended for thread in threads)


def test_ways_out_for_two_processes_lead_to_training(last_words: list[str]) -> None:
    """The settings that are said to work are those of the last training: cpu, 96 images, no shared batch norms."""
    refused = [line.removeprefix("refused ") for line in last_words if line.startswith("refused")]
    assert len(refused) == 6
    assert {*refused} == {
        "--device cpu:0 is one device for 2 processes; give --device cpu",
        "2 processes cannot share batches of 95 images equally; give a --batch-size of at most 1438 that is a multiple "
        "of 2",
        "--sync-batch-norm needs GPUs; leave it out, or use --device cuda",
    }
    assert sum(line.startswith("trained") for line in last_words) == 2


def test_a_run_of_two_processes_goes_on_in_two(shared: Path, last_words: list[str]) -> None:
    """They resumed it before they said that it was trained; one process starts another run."""
    assert sum(line.startswith("trained") for line in last_words) == 2
    config = config_of_run(shared / "run")
    said = r"was begun by 2 processes, not 1; start as many \(torchrun --nproc-per-node\), or start again with another"
    with pytest.raises(UserError, match=said):
        train(config, shared / "run", resume=True, progress=NoProgress())
    assert train(config, shared / "one", progress=NoProgress()).images == 359


def test_batches_that_cannot_be_shared_are_refused() -> None:
    few = Split(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    for size in (128, 129):  # larger ones are as large as there are images
        with pytest.raises(UserError, match=r"3 processes .* of 40 images .* at most 40 that is a multiple of 3"):
            BatchStream(few, size, None, 0, shard=(0, 3))
    assert BatchStream(few, 39, None, 0, shard=(0, 3)).images == 39


def test_parts_of_batches_make_the_whole() -> None:
    digits = load_dataset("digits")
    whole = list(BatchStream(digits.train, 60, digits.augmentation, 3).epoch())
    parts = [list(BatchStream(digits.train, 60, digits.augmentation, 3, shard=(rank, 3)).epoch()) for rank in range(3)]
    assert len(whole) == len(parts[0]) == 23
    for (images, labels), *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), images)
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), labels)

"""Ways out of mistakes with the folders of training runs."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from command_ways import Line, command, follow, full_disk, renames, require_all
from filelock import FileLock

from qkd_deploy.errors import UserError
from qkd_deploy.training.config import make_config, read_config
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.plot import plot_run
from qkd_deploy.training.monitoring.progress import NoProgress
from qkd_deploy.training.run import train

TEST = "tests/cli/ways/test_run_ways.py::test_the_way_out_works"
TRAIN = "train --model plaincnn --epochs 1 --pretrain-epochs 1 --batch-size 20 --method qat --dataset data.npz"
NEW = f"{TRAIN} --out new"

WAYS = {
    "a folder that cannot be written": Line(
        f"{TRAIN} --out data.npz/run", "cannot write in {}: {}; choose another --out", NEW
    ),
    "a run that is there": Line(f"{TRAIN} --out run", "already holds a run", f"{TRAIN} --out run --resume"),
    "another run than the one that is there": Line(
        f"{TRAIN} --out run --lr 0.1", "already holds a run", f"{NEW} --lr 0.1"
    ),
    "a run without its settings": Line(
        f"{TRAIN} --out run",
        "without its config.toml",
        "train --out run --resume",
        before=renames("run/config.toml", "config.toml"),
        mend=renames("config.toml", "run/config.toml"),
    ),
    "a new run beside one without its settings": Line(
        f"{TRAIN} --out run", "without its config.toml", NEW, before=renames("run/config.toml", "config.toml")
    ),
    "weights that would be replaced": Line(
        f"{TRAIN} --init weights/model.pt --out weights",
        "the run would replace",
        f"{TRAIN} --init weights/model.pt --out new",
        before=renames("float.pt", "weights/model.pt"),
    ),
    "a misspelt folder": Line("train --resume --out rnu", "holds no run to resume", "train --resume --out run"),
    "nothing to resume": Line(f"{NEW} --resume", "holds no run to resume", NEW),
    "other settings": Line(
        "train --resume --out run --seed 7", "was started with {} = {}, not {}", "train --resume --out run"
    ),
    "other settings for another run": Line(
        f"{TRAIN} --resume --out run --seed 7", "was started with {} = {}, not {}", f"{NEW} --seed 7"
    ),
    "an origin that is none": Line(
        NEW,
        "free some space, or choose another --out",
        f"{TRAIN} --out other",
        before=lambda folder: (folder / "new" / "origin.jsonl").mkdir(parents=True),
    ),
    "metrics that are none": Line(
        NEW,
        "check the folder of the run",
        NEW,
        before=lambda folder: (folder / "new" / "metrics.jsonl").mkdir(parents=True),
        mend=lambda folder: (folder / "new" / "metrics.jsonl").rmdir(),
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)


def test_a_folder_that_another_run_holds(folder: Path) -> None:
    with FileLock(folder / "run" / ".lock"):
        done = command("train --resume --out run", folder)
        assert done.err == "Error: another run is training in run; wait for it, or choose another --out\n"
        assert command(NEW, folder).code == 0
    assert command("train --resume --out run", folder).code == 0


class _FillsDisk(NoProgress):
    """Uses the disk up before an epoch is recorded."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        if record.epoch == self._epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize(("epoch", "then"), [(1, "start again"), (2, "use --resume")])
def test_space_that_was_freed_on_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, then: str) -> None:
    monkeypatch.chdir(folder)
    config = make_config({**read_config("run/config.toml"), "init": "float.pt", "epochs": (2,)})
    with full_disk(10**9), pytest.raises(UserError, match=rf"cannot write .*metrics\.jsonl.*space, then {then}$"):
        train(config, "new", progress=_FillsDisk(epoch))
    line = "--resume" if then == "use --resume" else "--config run/config.toml --init float.pt --epochs 2"
    done = command(f"train --out new {line}", folder)
    assert done.code == 0, done.err
    assert len((folder / "new/metrics.jsonl").read_text().splitlines()) == 2


def test_the_metrics_of_a_run_can_be_drawn_after_all(folder: Path) -> None:
    metrics = folder / "run" / "metrics.jsonl"
    lines = metrics.read_text()
    metrics.write_text("")
    with pytest.raises(UserError, match="holds no finished epoch to plot; wait for the first one"):
        plot_run(folder / "run")
    metrics.write_text(f"{lines}{{}}\n")
    with pytest.raises(UserError, match=r"line 3 of .* does not describe an epoch .*; repair or remove the line"):
        plot_run(folder / "run")
    metrics.write_text(lines)
    assert plot_run(folder / "run").stat().st_size > 1000

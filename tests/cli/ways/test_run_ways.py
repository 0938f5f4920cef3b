"""Ways out of mistakes with training runs: their data, their networks, and the folders that they leave."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from command_ways import Line, command, follow, full_disk, renames, require_all, runs
from filelock import FileLock

from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model
from qkd_deploy.training.config import make_config, read_config
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.plot import plot_run
from qkd_deploy.training.monitoring.progress import NoProgress
from qkd_deploy.training.run import train

TEST = "tests/cli/ways/test_run_ways.py::test_the_way_out_works"
BASE = "train --model plaincnn --epochs 1 --pretrain-epochs 1 --batch-size 20"
QAT = f"{BASE} --method qat"
TRAIN = f"{QAT} --dataset data.npz"
NEW = f"{TRAIN} --out new"
FLOAT = f"{NEW} --init float.pt"
SQAKD = f"{BASE} --method sqakd --teacher-pretrain-epochs 1 --out new"
OTHERS = f"{QAT} --dataset other.npz --out new"
PLAIN = f"{TRAIN} --model own:Plain --pretrain-epochs 3"
CO_STUDY = (
    "train --dataset data.npz --model own:Straight --init new/checkpoints/student-float.pt --batch-size 40 "
    "--teacher own:Straight:new/checkpoints/student-float.pt --method qkd --phases co-study --epochs 5 "
    "--schedule constant --weight-step-ratio 0 --activation-step-ratio 0"
)
DECAYS = f"{FLOAT} --epochs 3 --weight-decay 1e15 --weight-step-ratio 0 --activation-step-ratio 0"
DIVERGES = f"{PLAIN} --pretrain-lr 1000 --out new"
PHOTOS = f"{QAT} --dataset own:photos --model own:net --init photos.pt"
UNLABELLED = "--dataset unlabelled.npz --classes 3"


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def unlabelled(folder: Path) -> None:
    np.savez(folder / "unlabelled.npz", images=images(40))


def few(count: int, folder: Path) -> None:
    np.savez(
        folder / "other.npz",
        x_train=images(count),
        y_train=np.arange(count) % 3,
        x_test=images(9),
        y_test=np.arange(9) % 3,
    )


def half_labelled(folder: Path) -> None:
    np.savez(folder / "other.npz", x_train=images(40), y_train=np.arange(40) % 3, x_test=images(9))


def photo_weights(folder: Path) -> None:
    torch.save(create_model("plaincnn", 3, 3).state_dict(), folder / "photos.pt")


WAYS = {
    "one image": Line(
        OTHERS,
        "training needs {} or more",
        OTHERS,
        before=lambda folder: few(1, folder),
        mend=lambda folder: few(2, folder),
    ),
    "held-out images without labels": Line(
        OTHERS,
        "has no teacher to agree with",
        OTHERS,
        before=half_labelled,
        mend=lambda folder: few(40, folder),
    ),
    "held-out images without labels that are left out": Line(
        OTHERS,
        "has no teacher to agree with",
        OTHERS,
        before=half_labelled,
        mend=lambda folder: np.savez(folder / "other.npz", images=images(40), labels=np.arange(40) % 3),
    ),
    "no labels": Line(
        f"{QAT} --out new {UNLABELLED}",
        "has no labels, which --method {} needs",
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt",
        before=unlabelled,
    ),
    "no labels for a teacher": Line(
        f"{SQAKD} {UNLABELLED}",
        "has no labels to train a teacher on",
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt",
        before=unlabelled,
    ),
    "no labels to mix": Line(
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt --mixup 1",
        "mixup and cutmix mix labels",
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt",
        before=unlabelled,
    ),
    "another teacher than the student": Line(
        f"{SQAKD} --dataset data.npz --teacher resnet8", "leave --teacher out, or", f"{SQAKD} --dataset data.npz"
    ),
    "weights of another teacher": Line(
        f"{SQAKD} --dataset data.npz --teacher resnet8:float.pt",
        "leave --teacher out, or",
        f"{SQAKD} --dataset data.npz --teacher plaincnn:float.pt",
    ),
    "logits of other classes": Line(
        f"{NEW} --model own:five", "training needs logits of shape", f"{NEW} --model own:net"
    ),
    "pixels of which nothing is known": Line(
        f"{PHOTOS} --out new",
        "name it, such as --normalization imagenet",
        f"{PHOTOS} --out other --normalization imagenet",
        before=photo_weights,
        code=0,
    ),
    "a device that is not there": Line(f"{NEW} --device gpu", "is not available here", f"{NEW} --device auto"),
    "a device by number": Line(f"{NEW} --device mps:7", "is not available here", f"{NEW} --device cpu"),
    "divergence in full precision": Line(
        DIVERGES, "the loss is no longer finite", f"{PLAIN} --pretrain-lr 0.1 --out other"
    ),
    "divergence of a teacher that learns": Line(
        f"{CO_STUDY} --lr 1000 --out other",
        "the loss is no longer finite",
        f"{CO_STUDY} --lr 0.001 --out another",
        before=runs(f"{NEW} --model own:Straight"),
    ),
    "a scale that leaves its tensor": Line(
        f"{FLOAT} --lr 1000", "{}, which went from {} to {}", f"{FLOAT} --lr 0.01 --out other"
    ),
    "a scale that is not finite": Line(
        f"{DECAYS} --lr 1000", "which is not finite, because", f"{DECAYS} --lr 1e-19 --out other"
    ),
    "divergence by rounding": Line(
        f"{NEW} --model own:Coarse --precision bf16",
        "the loss is no longer finite",
        f"{NEW} --model own:Coarse --precision fp32 --out other",
    ),
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

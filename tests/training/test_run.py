from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from float_networks import float_network

from qkd_deploy.checkpoints.checkpoint import load_checkpoint, rebuild
from qkd_deploy.checkpoints.torch_file import save_tensors
from qkd_deploy.data import load_dataset
from qkd_deploy.errors import UserError
from qkd_deploy.training.config import make_config
from qkd_deploy.training.loop.evaluate import evaluate, integer_accuracy
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.progress import NoProgress
from qkd_deploy.training.run import train
from qkd_deploy.training.run_folder import RunFolder, config_of_run
from qkd_deploy.training.start.run_state import RunState

QUICK = {
    "model": "plaincnn",
    "teacher": "plaincnn",
    "epochs": [1, 2, 1],
    "pretrain_epochs": 1,
    "teacher_pretrain_epochs": 2,
    "batch_size": 128,
    "device": "cpu",
}

UNTRACEABLE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        if x.sum() > 0:
            x = -x
        return self.fc(x.flatten(1))

def make():
    return Net()
"""


class Killed(BaseException):
    pass


class KillAfter(NoProgress):
    """Stands for a process that dies when a given epoch is finished, before anything is saved."""

    def __init__(self, stage: str, epoch: int) -> None:
        self.victim = (stage, epoch)

    def epoch(self, record: EpochRecord, seconds_left: float) -> None:
        if (record.stage, record.epoch) == self.victim:
            raise Killed


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") > 0 and line.pop("images_per_second") > 0
    return lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(make_config(QUICK), folder, progress=NoProgress())
    return folder


def test_a_digits_run_from_end_to_end(tmp_path: Path) -> None:
    given = {"epochs": 3, "pretrain_epochs": 5, "teacher_pretrain_epochs": 4, "batch_size": 64, "device": "cpu"}
    config = make_config(given)  # resnet8 learns from resnet20 at w4a4
    result = train(config, tmp_path / "run", progress=NoProgress())
    assert result.accuracy > 90
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.training.accuracy == result.accuracy
    # The file alone gives the reported accuracy, as an integer model.
    held_out = load_dataset("digits").test
    assert integer_accuracy(rebuild(checkpoint), held_out) == result.accuracy
    assert evaluate(float_network(tmp_path / "run/teacher.pt"), held_out) == result.teacher_accuracy
    steps = [line["step_movement"] for line in metrics_of(tmp_path / "run") if line["stage"] == "qkd"]
    assert all(0 < movement["activation_steps"] < 1 and movement["weight_steps"] > 0 for movement in steps)


def test_the_folder_holds_the_whole_run(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()} - {".lock"}
    assert names == {
        "config.toml",
        "model.pt",
        "teacher.pt",
        "metrics.jsonl",
        "origin.jsonl",
        "plot.png",
        "events/events.out.tfevents.0000000001",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/teacher-float.pt",
        "checkpoints/student-float.pt",
    }
    assert config_of_run(finished) == make_config(QUICK)
    assert [(line["stage"], line["phase"], line["epoch"]) for line in metrics_of(finished)] == [
        ("pretrain-teacher", "pretrain-teacher", 1),
        ("pretrain-teacher", "pretrain-teacher", 2),
        ("pretrain-student", "pretrain-student", 1),
        ("qkd", "self-study", 1),
        ("qkd", "co-study", 2),
        ("qkd", "co-study", 3),
        ("qkd", "tutor", 4),
    ]


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_checkpoint(one).state_dict, load_checkpoint(other).state_dict
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "victim",
    [("pretrain-teacher", 1), ("pretrain-teacher", 2), ("qkd", 2), ("qkd", 4)],
)
def test_a_killed_run_resumes_to_the_same_result(finished: Path, tmp_path: Path, victim: tuple[str, int]) -> None:
    with pytest.raises(Killed):
        train(make_config(QUICK), tmp_path / "run", progress=KillAfter(*victim))
    train(config_of_run(tmp_path / "run"), tmp_path / "run", resume=True, progress=NoProgress())
    for name in ("model.pt", "teacher.pt"):
        assert same_weights(finished / name, tmp_path / "run" / name)
    assert metrics_of(tmp_path / "run") == metrics_of(finished)


def test_a_run_killed_between_metrics_and_checkpoint_repeats_no_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: RunFolder, state: RunState) -> None:
        if state.lines == 5:
            raise Killed
        saves(self, state)

    saves = RunFolder.save_state
    monkeypatch.setattr(RunFolder, "save_state", dies)
    with pytest.raises(Killed):
        train(make_config(QUICK), tmp_path / "run", progress=NoProgress())
    assert len(metrics_of(tmp_path / "run")) == 5
    monkeypatch.setattr(RunFolder, "save_state", saves)
    train(make_config(QUICK), tmp_path / "run", resume=True, progress=NoProgress())
    assert metrics_of(tmp_path / "run") == metrics_of(finished)
    assert same_weights(finished / "model.pt", tmp_path / "run/model.pt")


def test_a_finished_run_resumes_to_itself(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_text()
    weights = load_checkpoint(finished / "model.pt").state_dict
    result = train(config_of_run(finished), finished, resume=True, progress=NoProgress())
    assert (finished / "metrics.jsonl").read_text() == before
    state = result.student.state_dict()
    assert all(torch.equal(weights[name], state[name]) for name in weights)


def test_methods_and_seeds_differ_and_share_the_start(finished: Path, tmp_path: Path) -> None:
    results = [finished / "model.pt"]
    for name, given in {"kd": {"method": "kd"}, "qat": {"method": "qat"}, "seed": {"method": "qat", "seed": 1}}.items():
        train(make_config({**QUICK, **given}), tmp_path / name, progress=NoProgress())
        results.append(tmp_path / name / "model.pt")
    pairs = [(a, b) for i, a in enumerate(results) for b in results[i + 1 :]]
    assert not any(same_weights(a, b) for a, b in pairs)
    start = "checkpoints/student-float.pt"
    assert same_weights(finished / start, tmp_path / "qat" / start)
    assert not same_weights(finished / start, tmp_path / "seed" / start)
    assert not (tmp_path / "qat/teacher.pt").exists()


def test_given_weights_replace_the_pre_training(finished: Path, tmp_path: Path) -> None:
    given = {
        "init": str(finished / "checkpoints/student-float.pt"),
        "teacher_checkpoint": str(finished / "checkpoints/teacher-float.pt"),
    }
    train(make_config({**QUICK, **given}), tmp_path / "run", progress=NoProgress())
    assert {line["stage"] for line in metrics_of(tmp_path / "run")} == {"qkd"}
    assert same_weights(finished / "model.pt", tmp_path / "run/model.pt")


def test_a_folder_is_not_overwritten(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        train(make_config(QUICK), finished, progress=NoProgress())
    with pytest.raises(UserError, match="holds no run to resume"):
        train(make_config(QUICK), tmp_path / "none", resume=True, progress=NoProgress())
    with pytest.raises(UserError, match="holds no run to resume"):
        config_of_run(tmp_path / "none")
    with pytest.raises(UserError, match=r"started with lr = 0\.01, not 0\.02"):
        train(make_config({**QUICK, "lr": 0.02}), finished, resume=True, progress=NoProgress())


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="another run is training"):
        train(make_config(QUICK), folder, progress=NoProgress())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "digit"}, "digits"),
        ({"model": "resnet9"}, "resnet8"),
        ({"teacher": "resnt20"}, "resnet20"),
        ({"device": "quantum"}, "not available"),
        ({"init": "nowhere.pt"}, "nowhere.pt does not exist"),
        ({"teacher_checkpoint": "nowhere.pt"}, "nowhere.pt does not exist"),
        ({"model": "torch.nn:Identity"}, "training needs logits"),
        ({"model": "torch.nn:Dropout"}, "training needs logits"),
        ({"model": "own_model:make"}, "own_model.py"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    # own_model cannot be traced, which must be found before anything is trained.
    source = tmp_path / "source"
    source.mkdir()
    (source / "own_model.py").write_text(UNTRACEABLE)
    monkeypatch.syspath_prepend(source)
    with pytest.raises(UserError, match=message):
        train(make_config({**QUICK, **given}), tmp_path / "run", progress=NoProgress())
    assert not (tmp_path / "run").exists()


def test_divergence_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    config = make_config(
        {**QUICK, "lr": 1000.0, "weight_decay": 1e15, "weight_step_ratio": 0.0, "activation_step_ratio": 0.0}
    )
    with pytest.raises(UserError, match="train anew with a lower learning rate"):
        train(config, tmp_path / "run", progress=NoProgress())
    state, remark = RunFolder(tmp_path / "run").load_state()
    assert state.loop is not None and state.loop["stage"] == "pretrain-student"
    assert (state.lines, remark) == (3, "")


def test_the_state_of_an_older_version_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.last.parent.mkdir()
    save_tensors(folder.last, {"format": "qkd-deploy run state 2", "loop": {}, "metrics_lines": 0})
    with pytest.raises(UserError, match=r"is not the state of a run, or one of another version; .* start again"):
        folder.load_state()

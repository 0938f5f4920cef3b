from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from epochs import PRETRAINING, RECORD
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, SCALARS, EventAccumulator
from watched import images, prepared

from qkd_deploy.errors import UserError
from qkd_deploy.training.monitoring.events import scalars
from qkd_deploy.training.monitoring.metrics import EpochRecord, read_metrics
from qkd_deploy.training.monitoring.observation import Observation
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor
from qkd_deploy.training.monitoring.recorder import RunRecorder

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"


@pytest.fixture(scope="module")
def observation() -> Observation:
    return QuantizerMonitor(prepared()).observe(images())


def with_ce(value: float) -> EpochRecord:
    return replace(RECORD, losses={"student": {"ce": value}})


def events_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "events"), size_guidance={SCALARS: 0, HISTOGRAMS: 0}).Reload()


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events_of(folder).Scalars(tag)]


def record(folder: Path, keep: int, losses: list[float], *, close: bool = True) -> RunRecorder:
    recorder = RunRecorder(folder, keep, warn=pytest.fail)
    for value in losses:
        recorder.epoch(with_ce(value))
    if close:
        recorder.close()
    return recorder


def test_every_scalar_is_in_the_events(tmp_path: Path, observation: Observation) -> None:
    recorder = RunRecorder(tmp_path, keep=0, warn=pytest.fail)
    recorder.epoch(PRETRAINING)
    recorder.epoch(RECORD, observation)
    recorder.close()
    events, expected = events_of(tmp_path), {1: scalars(PRETRAINING, None), 2: scalars(RECORD, observation)}
    assert set(events.Tags()["scalars"]) == set(expected[1]) | set(expected[2])
    for tag in events.Tags()["scalars"]:
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found == pytest.approx({step: values[tag] for step, values in expected.items() if tag in values})
    assert expected[2]["accuracy/integer"] == 97.5 and expected[1]["accuracy/teacher"] == 60.0
    assert expected[2]["loss/teacher/kl"] == 1.0 and expected[2]["learning_rate/teacher"] == 0.001


def test_histograms_hold_the_true_counts_of_codes(tmp_path: Path, observation: Observation) -> None:
    recorder = RunRecorder(tmp_path, keep=0, warn=pytest.fail)
    recorder.epoch(RECORD, observation)
    recorder.close()
    events = events_of(tmp_path)
    assert set(events.Tags()["histograms"]) == {f"codes/{tensor.name}" for tensor in observation.tensors}
    for tensor in observation.tensors:
        (event,) = events.Histograms(f"codes/{tensor.name}")
        shown = event.histogram_value
        codes = range(tensor.lo, tensor.lo + len(tensor.counts))
        assert {limit - 0.5: count for limit, count in zip(shown.bucket_limit, shown.bucket, strict=True) if count} == {
            code: count for code, count in zip(codes, tensor.counts, strict=True) if count
        }
        assert shown.num == sum(tensor.counts)


def test_the_guide_lists_the_tags(observation: Observation) -> None:
    table = GUIDE.read_text(encoding="utf-8").split("## TensorBoard")[1].split("What to look for")[0]
    listed = {tag for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for tag in re.findall("`(.+?)`", row)}
    placeholders = {"student": "NETWORK", "teacher": "NETWORK", "ce": "TERM", "kl": "TERM"}
    placeholders |= {"weight_steps": "KIND", "activation_steps": "KIND"}
    placeholders |= {tensor.name: "TENSOR" for tensor in observation.tensors}
    student = replace(PRETRAINING, stage="pretrain-student", losses={"student": {"ce": 1.0}})
    written = {tag for one in (RECORD, PRETRAINING, student) for tag in scalars(one, observation)}
    general = set()
    for tag in written:
        first, *rest = tag.split("/")
        general.add(
            "/".join([first, *(part if first == "accuracy" else placeholders.get(part, part) for part in rest)])
        )
    assert listed == general | {"codes/TENSOR"}


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from dataclasses import replace
from pathlib import Path
from epochs import RECORD
from qkd_deploy.training.monitoring.recorder import RunRecorder

recorder = RunRecorder(Path(sys.argv[1]), keep=0, warn=print)
for value in (4.0, 3.0, 99.0):
    recorder.epoch(replace(RECORD, losses={"student": {"ce": value}}))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process with SIGKILL")
def test_a_killed_run_continues_its_curves(tmp_path: Path) -> None:
    # The process died between the third epoch and its checkpoint, which therefore knows of two.
    support = str(Path(__file__).parents[1] / "support")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), support], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert curve(tmp_path, "loss/student/ce") == [(1, 4.0), (2, 3.0), (3, 99.0)]
    recorder = record(tmp_path, keep=2, losses=[2.0, 1.0])
    assert recorder.lines == 4
    assert curve(tmp_path, "loss/student/ce") == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert [one.losses["student"]["ce"] for one in read_metrics(tmp_path / "metrics.jsonl")] == [4.0, 3.0, 2.0, 1.0]


def test_points_that_are_not_repeated_are_purged_too(tmp_path: Path) -> None:
    # As after going back by more than one epoch.
    record(tmp_path, keep=0, losses=[4.0, 3.0, 99.0, 99.0, 99.0], close=False)
    record(tmp_path, keep=2, losses=[2.0], close=False)
    assert curve(tmp_path, "loss/student/ce") == [(1, 4.0), (2, 3.0), (3, 2.0)]
    record(tmp_path, keep=0, losses=[7.0])
    assert curve(tmp_path, "loss/student/ce") == [(1, 7.0)]


def test_nothing_is_written_where_a_finished_run_is_resumed(tmp_path: Path) -> None:
    record(tmp_path, keep=0, losses=[2.0, 1.0])
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert record(tmp_path, keep=2, losses=[]).lines == 2
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_process_that_leaves_recording_to_another_writes_nothing(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path, keep=3, warn=pytest.fail, active=False)
    recorder.epoch(RECORD)
    recorder.close()
    assert recorder.lines == 4 and not any(tmp_path.iterdir())


def test_a_run_survives_without_events_and_plot_and_warns_once_each(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file is in the way")
    (tmp_path / "plot.png").mkdir()
    warnings: list[str] = []
    recorder = RunRecorder(tmp_path, keep=0, warn=warnings.append)
    for _ in range(3):
        recorder.epoch(RECORD)
    recorder.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    assert [warning.split(" could")[0] for warning in warnings] == ["warning: TensorBoard events", "warning: the plot"]
    assert all("\n" not in warning for warning in warnings)


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from epochs import RECORD
from watched import images, prepared
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor
from qkd_deploy.training.monitoring.recorder import RunRecorder

observer = QuantizerMonitor(prepared())
recorder = RunRecorder(Path(sys.argv[1]), keep=0, warn=print)
recorder.epoch(RECORD, observer.observe(images()))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))  # events are larger than metrics
for _ in range(3):
    recorder.epoch(RECORD, observer.observe(images()))
recorder.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sizes of files are limited with POSIX's setrlimit")
def test_a_disk_that_fills_up_costs_events_and_plot_only(tmp_path: Path) -> None:
    support = str(Path(__file__).parents[1] / "support")
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), support], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split(" could")[0] for line in result.stdout.splitlines()] == [
        "warning: TensorBoard events",
        "warning: the plot",
    ]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4
    assert curve(tmp_path, "loss/student/ce") == [(1, 0.5)]  # half an epoch is none
    # with room again, the run continues in another file
    record(tmp_path, keep=4, losses=[0.25])
    assert curve(tmp_path, "loss/student/ce") == [(1, 0.5), (5, 0.25)]


def test_metrics_that_cannot_be_written_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        RunRecorder(tmp_path, keep=0, warn=pytest.fail)


def test_a_run_that_ends_before_its_first_epoch_leaves_no_plot(tmp_path: Path) -> None:
    RunRecorder(tmp_path, keep=0, warn=pytest.fail).close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_an_epoch_left_is_there_at_once(tmp_path: Path) -> None:
    recorder = record(tmp_path, keep=0, losses=[4.0], close=False)
    assert curve(tmp_path, "loss/student/ce") == [(1, 4.0)]
    recorder.close()

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from qkd_deploy.training.monitoring.metrics import EpochRecord, MetricsFile
from qkd_deploy.training.monitoring.progress import PlainProgress, TerminalProgress, progress_on_stderr
from qkd_deploy.training.monitoring.wording import duration, epoch_line, speed_text

RECORD = EpochRecord(
    stage="qkd",
    phase="co-study",
    epoch=3,
    epochs=20,
    losses={"student": {"ce": 0.5, "kl": 0.25}, "teacher": {"ce": 0.125, "kl": 1.0}},
    learning_rates={"student": 0.01, "teacher": 0.001},
    step_movement={"weight_steps": 0.001},
    accuracy=97.5,
    seconds=1.5,
)
LINE = "qkd/co-study  epoch 3/20  student ce 0.500 kl 0.250  teacher ce 0.125 kl 1.000  accuracy 97.50 %  25 s left"


def test_plain_lines() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    progress.message("[not markup]")
    progress.batches("qkd", 1, 2, "")
    progress.epoch(RECORD, 25)
    progress.close()
    assert stream.getvalue().splitlines() == ["[not markup]", LINE]


def test_a_terminal_shows_the_same_line_above_a_bar() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, force_terminal=True, width=140, color_system=None))
    progress.batches("qkd co-study 3/20", 7, 11, "student ce 0.5")
    progress.epoch(RECORD, 25)
    progress.message("[not markup]")
    progress.close()
    assert LINE in stream.getvalue() and "[not markup]" in stream.getvalue()


def test_a_long_epoch_gives_signs_of_life() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, every=0)
    progress.epoch_begins("qkd", 3, 20, images=1000)
    progress.batches("qkd co-study 3/20", 7, 11, "student ce 0.5")
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(r"qkd co-study 3/20  batch 7/11  [\d,]+ images/s  student ce 0\.5", line)


def test_a_terminal_has_a_bar_for_the_stage_and_one_for_the_epoch() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    progress = TerminalProgress(console)
    progress.epoch_begins("qkd", 3, 20, images=1000)
    progress.batches("qkd co-study 3/20", 5, 10, "student ce 0.5")
    stage, epoch = progress._bars.tasks
    assert (stage.description, stage.completed, stage.total) == ("qkd", 2.5, 20)
    assert (epoch.description, epoch.completed, epoch.total) == ("qkd co-study 3/20", 5, 10)
    progress._bars.refresh()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "epoch 3/20" in shown and "batch 5/10" in shown and "images/s  student ce 0.5" in shown
    progress.epoch(RECORD, 25)
    assert stage.completed == 3
    progress.epoch_begins("next", 1, 7, images=1000)
    assert (stage.description, stage.completed, stage.total, epoch.visible) == ("next", 0, 7, False)
    progress.close()


def test_the_throughput_is_in_the_line_of_an_epoch() -> None:
    assert "97.50 %  1,234 images/s  25 s left" in epoch_line(replace(RECORD, images_per_second=1234.0), 25)
    assert speed_text(0.75) == "0.8 images/s"


def finished_run(folder: Path) -> Path:
    metrics = MetricsFile(folder / "metrics.jsonl", keep=0)
    metrics.write(RECORD)
    metrics.close()
    return folder


def test_the_summary_is_plain_in_pipes_and_a_table_on_terminals(tmp_path: Path) -> None:
    plain, terminal = io.StringIO(), io.StringIO()
    PlainProgress(plain).summary(finished_run(tmp_path), 98.0)
    on_terminal = TerminalProgress(Console(file=terminal, force_terminal=True, width=140))
    on_terminal.summary(tmp_path, 98.0)
    on_terminal.close()
    assert "teacher: 98.00 % in full precision" in plain.getvalue()
    assert plain.getvalue().isascii() and "\x1b" not in plain.getvalue()
    assert "│ co-study" in terminal.getvalue() and "98.00 %" in terminal.getvalue()


def test_progress_goes_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    progress = progress_on_stderr()
    progress.message("hello")
    progress.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (61, "61 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_metrics_are_one_json_object_per_line_and_flushed(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", keep=0)
    metrics.write(RECORD)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()  # before close: nothing is held back
    assert json.loads(line)["losses"]["teacher"] == {"ce": 0.125, "kl": 1.0}
    metrics.close()


def test_metrics_are_cut_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("one\ntwo\nthree\nhalf a li")
    metrics = MetricsFile(path, keep=2)
    metrics.write(RECORD)
    metrics.close()
    lines = path.read_text().splitlines()
    assert lines[:2] == ["one", "two"]
    assert json.loads(lines[2])["epoch"] == 3
    assert metrics.lines == 3

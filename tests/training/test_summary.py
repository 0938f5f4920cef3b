from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

from epochs import PRETRAINING, RECORD
from rich.console import Console

from qkd_deploy.training.monitoring.summary import PhaseSummary, print_summary, summarize

RUN = [
    PRETRAINING,
    replace(RECORD, accuracy=98.0),
    replace(RECORD, epoch=2, accuracy=96.0),
    replace(RECORD, epoch=3, accuracy=None, losses={"student": {"ce": 0.1}}),
    replace(RECORD, epoch=4, phase="tutor", accuracy=None),
]


def printed(folder: Path, teacher_accuracy: float | None) -> list[str]:
    """The lines that a pipe gets, with single blanks between the cells."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(asdict(record)) + "\n" for record in RUN))
    stream = io.StringIO()
    print_summary(Console(file=stream, width=140), folder, teacher_accuracy)
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_phases_are_summed_up() -> None:
    assert list(summarize(RUN)) == [
        PhaseSummary("pretrain-teacher", 1, {"teacher": {"ce": 1.5}}, "accuracy", "teacher", 60.0, 60.0, 2.0),
        PhaseSummary("co-study", 3, {"student": {"ce": 0.1}}, "accuracy", "integer", 98.0, 96.0, 6.0),
        PhaseSummary("tutor", 1, RECORD.losses, "accuracy", "integer", None, None, 2.0),
    ]


def test_there_is_a_row_for_each_phase_and_the_place_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / ("[long] " * 20).strip()  # neither broken nor read as markup
    folder.mkdir()
    (folder / "model.pt").touch()
    lines = printed(folder, 97.25)
    assert lines == [
        "5 epochs in 10 s",
        "phase epochs losses at the end accuracy of best last time",
        "pretrain-teacher 1 teacher ce 1.500 float teacher 60.00 % 60.00 % 2 s",
        "co-study 3 student ce 0.100 integer model 98.00 % 96.00 % 6 s",
        "tutor 1 student ce 0.500 kl 0.250 teacher ce 0.125 kl 1.000 integer model - - 2 s",
        "teacher: 97.25 % in full precision",
        f"files in {folder}: model.pt, metrics.jsonl",
    ]


def test_without_a_teacher_none_is_mentioned(tmp_path: Path) -> None:
    assert not any("full precision" in line for line in printed(tmp_path, None))

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from epochs import PRETRAINING, RECORD
from watched import images, prepared

from qkd_deploy.errors import UserError
from qkd_deploy.training.monitoring.metrics import TIMING_FIELDS, EpochRecord, MetricsFile, read_metrics
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor
from qkd_deploy.training.monitoring.recorder import RunRecorder

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"
NUMBERS = {"text": str, "whole number": int, "number": float, "number or null": float | None}


def documented() -> dict[str, Any]:
    """Fields and types as the table of the guide gives them."""
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: type_of(words) for name, words in rows}


def type_of(words: str) -> Any:
    """``kind to number`` is a dictionary of numbers by kind, and so on."""
    _, _, inner = words.partition(" to ")
    return dict[str, type_of(inner)] if inner else NUMBERS[words]


def fits(value: Any, kind: Any) -> bool:
    if str(kind).startswith("dict"):
        return type(value) is dict and all(fits(item, kind.__args__[1]) for item in value.values())
    return isinstance(value, kind) and type(value) is not bool


def test_the_guide_has_every_field_with_its_type() -> None:
    assert documented() == get_type_hints(EpochRecord)
    assert list(documented()) == [item.name for item in fields(EpochRecord)]
    assert all(f"`{name}`" in GUIDE.read_text(encoding="utf-8").split("differ between")[0] for name in TIMING_FIELDS)


def test_every_line_is_as_documented(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path, keep=0, warn=pytest.fail)
    observer = QuantizerMonitor(prepared())
    recorder.epoch(PRETRAINING)
    recorder.epoch(RECORD, observer.observe(images()))
    recorder.epoch(replace(RECORD, accuracy=None), observer.observe(images()))
    recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and len(lines[1]["steps"]) == len(lines[1]["clipped"]) == len(lines[1]["levels_used"]) > 5
    for line in lines:
        assert list(line) == list(documented())
        assert all(fits(line[name], kind) for name, kind in documented().items())
    assert [asdict(record) for record in read_metrics(tmp_path / "metrics.jsonl")] == lines


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(asdict(RECORD)) + "\n" + json.dumps(asdict(RECORD))[:40])
    assert read_metrics(path) == [RECORD]


def test_lines_of_runs_without_observations_can_be_read(tmp_path: Path) -> None:
    line = {name: value for name, value in asdict(PRETRAINING).items() if name not in ("steps", "images_per_second")}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == [replace(PRETRAINING, images_per_second=0.0)]


@pytest.mark.parametrize(
    "change",
    [{"epoch": 1.5}, {"epoch": True}, {"losses": {"student": 1.0}}, {"accuracy": "high"}, {"colour": "red"}, None],
)
def test_a_damaged_line_is_named(tmp_path: Path, change: dict[str, Any] | None) -> None:
    good = asdict(RECORD)
    bad = "{" if change is None else json.dumps({**good, **change})
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(good)}\n{bad}\n")
    with pytest.raises(UserError, match=r"^line 2 of .*metrics\.jsonl does not describe an epoch"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_line_without_a_required_field_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "qkd"}\n')
    with pytest.raises(UserError, match="line 1 of"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*metrics\.jsonl: No such file"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    for reads in (read_metrics, lambda path: MetricsFile(path, keep=1)):
        with pytest.raises(UserError, match="it is not text"):
            reads(tmp_path / "metrics.jsonl")


def test_what_an_accuracy_is_of() -> None:
    assert (RECORD.measured, PRETRAINING.measured) == ("integer", "teacher")
    assert replace(RECORD, stage="pretrain-student", losses={"student": {"ce": 1.0}}).measured == "student"
    assert replace(RECORD, stage="qfd", losses={"teacher": {"ce": 1.0}}).measured == "teacher"


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from qkd_deploy.errors import UserError
from qkd_deploy.training.monitoring.metrics import MetricsFile
from epochs import RECORD

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
metrics = MetricsFile(Path(sys.argv[1]), keep=0)
metrics.write(RECORD)
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    metrics.write(RECORD)
except UserError as error:
    print(error)
metrics.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sizes of files are limited with POSIX's setrlimit")
def test_a_full_disk_is_one_sentence_and_what_was_written_continues(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    support = str(Path(__file__).parents[1] / "support")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), support], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"cannot write {path}: File too large; free some space, then use --resume\n"
    assert not path.read_text().endswith("\n")  # half a line
    continued = MetricsFile(path, keep=1)
    continued.write(PRETRAINING)
    continued.close()
    assert read_metrics(path) == [RECORD, PRETRAINING]


def test_reading_metrics_imports_nothing_heavy() -> None:
    code = "import sys, qkd_deploy.training.monitoring.metrics; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "tensorboard", "matplotlib", "numpy", "rich"}.isdisjoint(result.stdout.split())


def test_drawing_libraries_are_imported_when_something_is_drawn() -> None:
    names = ("recorder", "quantizer_monitor", "events", "plot", "summary")
    modules = ", ".join(f"qkd_deploy.training.monitoring.{name}" for name in names)
    code = f"import sys, {modules}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"tensorboard", "torch.utils.tensorboard", "matplotlib"}.isdisjoint(result.stdout.split())

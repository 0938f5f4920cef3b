"""``metrics.jsonl``: what happened in each epoch, one JSON object per line, as docs/monitoring.md describes it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import IO, Any, Literal, get_args, get_origin, get_type_hints

from qkd_deploy.atomic import atomic_write
from qkd_deploy.errors import UserError

TIMING_FIELDS = ("seconds", "images_per_second")
"""The only fields that differ between two equal runs on one machine."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``metrics.jsonl``.

    Attributes:
        stage: "pretrain-teacher", "pretrain-student", or the method's name.
        phase: the phase within the stage, such as "co-study".
        epoch, epochs: 1-based number within the stage, and the stage's length.
        losses: for each network that learned, its loss terms averaged over the epoch, such as
            ``{"student": {"ce": 0.31, "kl": 0.12}}``.
        learning_rates: for each network that learned, the learning rate of its weights in the last batch.
        step_movement: mean ``|log(s_after / s_before)|`` of the quantization steps over the epoch, for weights and
            activations; empty for full-precision networks.
        accuracy: percent of the task's ``measure`` on the held-out split, or None in an epoch without evaluation; see
            ``measured``.
        seconds: wall-clock time of the epoch, evaluation included.
        images_per_second: training images over the time that they took, evaluation left out; 0 where not measured.
        steps: step size of every quantized tensor after the epoch, by name; like the next two, empty for
            full-precision networks.
        clipped: share of every tensor's values whose nearest code lies beyond its grid.
        levels_used: share of every tensor's codes that occur at all.
        measure: what ``accuracy`` is, such as "accuracy" of classifiers or "mAP50-95" of detectors.
    """

    stage: str
    phase: str
    epoch: int
    epochs: int
    losses: dict[str, dict[str, float]]
    learning_rates: dict[str, float]
    step_movement: dict[str, float]
    accuracy: float | None
    seconds: float
    images_per_second: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    levels_used: dict[str, float] = field(default_factory=dict)
    measure: str = "accuracy"

    @property
    def measured(self) -> Literal["integer", "student", "teacher"]:
        """The owner of ``accuracy``: the student's frozen integer model, or one of the networks in full precision."""
        if "student" not in self.losses:
            return "teacher"
        return "student" if self.stage.startswith("pretrain-") else "integer"


class MetricsFile:
    """Appends records to ``path``, each on the disk when ``write`` returns.

    Args:
        path: the file; an existing one is continued.
        keep: lines to keep of an existing file: those that the checkpoint to continue from knows about.

    Attributes:
        lines: how many the file holds.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self._path = path
        old = _read(path).splitlines(keepends=True) if path.exists() else []
        with atomic_write(path) as temporary:
            temporary.write_text("".join(old[:keep]), encoding="utf-8")
        self.lines = min(keep, len(old))
        self._digest = hashlib.sha256("".join(old[:keep]).encode())
        try:
            self._file: IO[str] = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._failure(error) from error

    def write(self, record: EpochRecord) -> None:
        """Append one record.

        Raises:
            UserError: the file cannot be written, as on a full disk.
        """
        line = json.dumps(asdict(record)) + "\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error
        self.lines += 1
        self._digest.update(line.encode())

    @property
    def digest(self) -> str:
        """SHA-256 of the lines, in hexadecimal digits."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # what could not be written was reported, and is tried once more here
            self._file.close()

    def _failure(self, error: OSError) -> UserError:
        then = "use --resume" if self.lines else "start again"  # a run without a finished epoch leaves nothing
        return UserError(f"cannot write {self._path}: {error.strerror}; free some space, then {then}")


def digest_of_lines(path: Path, count: int) -> str:
    """Hash the first lines of a file by SHA-256; "" where there are fewer whole ones, or no such file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)[:count]
    except OSError:
        return ""
    whole = len(lines) == count and all(line.endswith(b"\n") for line in lines)
    return hashlib.sha256(b"".join(lines)).hexdigest() if whole else ""


def read_metrics(path: Path) -> list[EpochRecord]:
    """Read the records of a ``metrics.jsonl``. A last line that is still being written is left out.

    Raises:
        UserError: the file cannot be read, or a line is not as ``MetricsFile`` writes it.
    """
    lines = _read(path).split("\n")[:-1]
    return [_record(line, f"line {number} of {path}") for number, line in enumerate(lines, start=1)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path}: {reason}; check the folder of the run") from error


def _record(line: str, where: str) -> EpochRecord:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict) or not _describes_an_epoch(values):
        raise UserError(f"{where} does not describe an epoch as this version writes it; repair or remove the line")
    return EpochRecord(**values)


def _describes_an_epoch(values: dict[str, Any]) -> bool:
    """Compare names and types of values with the fields of ``EpochRecord``; those with defaults may be missing."""
    types = _types()
    required = {item.name for item in fields(EpochRecord) if item.default is item.default_factory is MISSING}
    if not required <= values.keys() <= types.keys():
        return False
    return all(_fits(value, types[name]) for name, value in values.items())


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(EpochRecord)


def _fits(value: Any, kind: Any) -> bool:
    """Compare a JSON value with a field's type."""
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(item, get_args(kind)[1]) for item in value.values())
    if get_origin(kind) is UnionType:
        return any(_fits(value, one) for one in get_args(kind))
    return type(value) is kind

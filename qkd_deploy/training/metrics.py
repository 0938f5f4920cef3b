"""``metrics.jsonl``: what happened in each epoch, one JSON object per line.

Schema of a line (``EpochRecord``):

- ``stage``: "pretrain-teacher", "pretrain-student", or the method's name.
- ``phase``: the phase within the stage, such as "co-study".
- ``epoch``, ``epochs``: 1-based number within the stage, and the stage's length.
- ``losses``: for each network that learned, its loss terms averaged over the epoch, such as
  ``{"student": {"ce": 0.31, "kl": 0.12}}``.
- ``learning_rates``: for each network that learned, the learning rate of its weights in the last batch.
- ``step_movement``: mean ``|log(s_after / s_before)|`` of the quantization steps over the epoch, for weights and
  activations; empty for full-precision networks.
- ``accuracy``: percent on the held-out split, or null in an epoch without evaluation. In the method's stage it is the
  accuracy of the *frozen integer* model; in pre-training, of the float network.
- ``seconds``: wall-clock time of the epoch. The only value that differs between two equal runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from qkd_deploy.atomic import atomic_write
from qkd_deploy.errors import UserError


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``metrics.jsonl``; the fields are described at the top of this module."""

    stage: str
    phase: str
    epoch: int
    epochs: int
    losses: dict[str, dict[str, float]]
    learning_rates: dict[str, float]
    step_movement: dict[str, float]
    accuracy: float | None
    seconds: float


class MetricsFile:
    """Appends records to ``path``, each flushed as it is written.

    Args:
        path: the file; an existing one is continued.
        keep: lines to keep of an existing file: those that the checkpoint to continue from knows about.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self._path = path
        old = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        with atomic_write(path) as temporary:
            temporary.write_text("".join(old[:keep]), encoding="utf-8")
        self.lines = min(keep, len(old))
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, record: EpochRecord) -> None:
        """Append one record and flush it."""
        try:
            self._file.write(json.dumps(asdict(record)) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror}; free some space, then use --resume"
            ) from error
        self.lines += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

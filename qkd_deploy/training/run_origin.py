"""Who trained a run: the command line, commit and machine of every process that worked on it, in ``origin.jsonl``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from qkd_deploy.errors import UserError
from qkd_deploy.provenance import provenance

NAME = "origin.jsonl"
_FROM_PYTHON = "qkd_deploy.training.run.train, called from Python"


@dataclass(frozen=True)
class Origin:
    """One process that worked on a run.

    Attributes:
        command: what the user typed, or that training was called from Python.
        date: when it began, in UTC.
        commit: of the checkout that ran, with "+changes" where files differed; "unknown" outside one.
        version: of the package.
        cpu: its model.
    """

    command: str
    date: str
    commit: str
    version: str
    cpu: str


def add_origin(folder: Path, command: str, *, resume: bool) -> None:
    """Note the process that begins or goes on with a run.

    Args:
        folder: of the run.
        command: what the user typed; "" where training was called from Python.
        resume: others worked on it before.

    Raises:
        UserError: the file cannot be written.
    """
    known = provenance(command)
    version, cpu = known["packages"]["qkd-deploy"], known["cpu"]["model"]
    origin = Origin(command or _FROM_PYTHON, known["date"], known["commit"], version, cpu)
    path = folder / NAME
    try:
        with path.open("a" if resume else "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(origin)) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free some space, or choose another --out") from error


def read_origins(folder: Path) -> list[Origin]:
    """List the processes that worked on a run, in order, as far as they noted it."""
    try:
        lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [origin for line in lines if (origin := _origin(line)) is not None]


def _origin(line: str) -> Origin | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    names = {item.name for item in fields(Origin)}
    if not isinstance(values, dict) or values.keys() != names:
        return None
    return Origin(**values) if all(isinstance(value, str) for value in values.values()) else None

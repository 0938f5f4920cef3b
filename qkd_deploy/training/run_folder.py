"""The files of one run, and the rules for starting and continuing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qkd_deploy.checkpoints.torch_file import read_tensors, save_tensors
from qkd_deploy.distill.phases import Role
from qkd_deploy.errors import UserError
from qkd_deploy.training.config import TrainConfig, make_config, read_config, write_config

_FORMERLY = {"normalization": "centered", "interpolation": "bilinear"}
_STATE_FORMAT = "qkd-deploy run state 2"
"""2 since scales are learned as movements: the optimizer's state of before says nothing of those."""


class RunFolder:
    """``config.toml``, ``model.pt``, ``teacher.pt``, ``checkpoints/``, and what ``RunRecorder`` leaves, of a run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.student = path / "model.pt"
        self.teacher = path / "teacher.pt"
        self.last = path / "checkpoints" / "last.pt"
        self.bits = path / "checkpoints" / "bits.json"

    def start_of(self, role: Role) -> Path:
        """Where the pre-trained full-precision weights of ``role`` are kept."""
        return self.path / "checkpoints" / f"{role}-float.pt"

    @contextmanager
    def opened(self, config: TrainConfig, *, resume: bool) -> Iterator[None]:
        """Hold the folder for one run: check that it may be started or continued, lock it, write ``config.toml``.

        Raises:
            UserError: the folder holds a run already (without ``resume``) or none (with it), the run has other
                settings, another process is training in it, or the folder cannot be written.
        """
        self.check(config, resume=resume)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise UserError(f"another run is training in {self.path}; wait for it, or choose another --out") from error
        except OSError as error:
            raise UserError(f"cannot write in {self.path}: {error.strerror}; choose another --out") from error
        try:
            self._remove_unfinished()
            write_config(config, self.config)
            yield
        finally:
            lock.release()

    def _remove_unfinished(self) -> None:
        """Remove what a process left that was killed while it wrote a file."""
        for folder in (self.path, self.last.parent):
            for file in folder.glob(".*.tmp"):
                file.unlink(missing_ok=True)

    def check(self, config: TrainConfig, *, resume: bool) -> None:
        """Refuse a run that may not be started or continued; raises as ``opened`` does, and changes nothing."""
        if resume:
            self.require_run()
            self._require_same(config)
        elif self.config.exists():
            raise UserError(f"{self.path} already holds a run; continue it with --resume, or choose another --out")

    def require_run(self) -> None:
        """Refuse a folder without a run.

        Raises:
            UserError: there is none to resume.
        """
        if not self.config.exists():
            raise UserError(f"{self.path} holds no run to resume; check --out, or leave --resume out")

    def _require_same(self, config: TrainConfig) -> None:
        old, new = asdict(make_config(_settings_in(self.config))), asdict(config)
        changed = [key for key in new if new[key] != old[key]]
        if changed:
            key = changed[0]
            raise UserError(
                f"the run in {self.path} was started with {key} = {old[key]!r}, not {new[key]!r}; "
                "resume it with the same settings, or choose another --out"
            )

    def save_state(self, loop: dict[str, Any], metrics_lines: int) -> None:
        """Write what continues the run from an epoch boundary."""
        save_tensors(self.last, {"format": _STATE_FORMAT, "loop": loop, "metrics_lines": metrics_lines})

    def load_state(self) -> tuple[dict[str, Any] | None, int]:
        """Read what ``save_state`` wrote; (None, 0) where the run had not finished an epoch.

        Raises:
            UserError: the file is damaged.
        """
        if not self.last.exists():
            return None, 0
        content = read_tensors(self.last)
        if not isinstance(content, dict) or content.get("format") != _STATE_FORMAT:
            raise UserError(
                f"{self.last} is not the state of a run, or one of another version; start again with another --out"
            )
        return content["loop"], content["metrics_lines"]


def config_of_run(path: Path | str) -> TrainConfig:
    """Read the settings of the run in a folder, for ``--resume``.

    Raises:
        UserError: there is no run, or its ``config.toml`` is damaged.
    """
    folder = RunFolder(Path(path))
    folder.require_run()
    return make_config(_settings_in(folder.config))


def _settings_in(path: Path) -> dict[str, Any]:
    """The settings of a run; those of older programs say nothing of what has been the only way then."""
    return {**_FORMERLY, **read_config(path)}

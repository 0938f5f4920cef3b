"""The files of one run, and the rules for starting and continuing it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from qkd_deploy.atomic import atomic_write, is_same_file
from qkd_deploy.distill.phases import Role
from qkd_deploy.errors import UserError
from qkd_deploy.training.config import TrainConfig, make_config, read_config, write_config
from qkd_deploy.training.run_origin import add_origin
from qkd_deploy.training.start.run_state import RunState, newest_state

_OURS = ("config.toml", "checkpoints", "metrics.jsonl", "events", "plot.png", "origin.jsonl", ".lock")
"""What a run makes before it is finished."""


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
        self.previous = path / "checkpoints" / "previous.pt"
        self.bits = path / "checkpoints" / "bits.json"
        self._lock = FileLock(path / ".lock", timeout=0)
        self._trained = False

    def start_of(self, role: Role) -> Path:
        """Where the pre-trained full-precision weights of ``role`` are kept."""
        return self.path / "checkpoints" / f"{role}-float.pt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, which is made where there is none, for one run; it may be held twice by one.

        Raises:
            UserError: another process is training in it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise UserError(f"another run is training in {self.path}; wait for it, or choose another --out") from error
        except OSError as error:
            raise UserError(f"cannot write in {self.path}: {error.strerror}; choose another --out") from error
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def opened(self, config: TrainConfig, start: RunState, *, resume: bool, command: str = "") -> Iterator[None]:
        """Hold the folder for one run: check that it may be started or continued, lock it, write ``config.toml``.

        A new run that fails before the end of its first epoch leaves nothing behind.

        Args:
            config: of the run.
            start: the state that a new run starts with.
            resume: continue the run that is there.
            command: what the user typed.

        Raises:
            UserError: the folder holds a run already (without ``resume``) or none (with it), the run has other
                settings, another process is training in it, or the folder cannot be written.
        """
        self.check(config, resume=resume)
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        new = [] if resume else [self.path / name for name in _OURS if not (self.path / name).exists()]
        with self.locked():
            self._remove_unfinished()
            try:
                if not resume:
                    self.previous.unlink(missing_ok=True)
                    start.write(self.last)
                write_config(config, self.config)
                add_origin(self.path, command, resume=resume)
                yield
            except Exception:
                if not self._trained:
                    _remove(new, made)
                raise

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
        elif self.last.exists() and RunState.read(self.last).loop is not None:
            raise UserError(f"{self.path} holds a run without its config.toml; put that back, or choose another --out")
        else:
            self._require_weights_elsewhere(config)

    def _require_weights_elsewhere(self, config: TrainConfig) -> None:
        """Refuse to replace the weights that the run starts from."""
        for option, weights in (("--init", config.init), ("--teacher", config.teacher_checkpoint)):
            for written in (self.student, self.teacher):
                if weights and is_same_file(weights, written):
                    raise UserError(f"the run would replace {weights}, which {option} reads; choose another --out")

    def require_run(self) -> None:
        """Refuse a folder without a run.

        Raises:
            UserError: there is none to resume.
        """
        if not self.config.exists():
            raise UserError(f"{self.path} holds no run to resume; check --out, or leave --resume out")

    def _require_same(self, config: TrainConfig) -> None:
        old, new = asdict(make_config(read_config(self.config))), asdict(config)
        changed = [key for key in new if new[key] != old[key]]
        if changed:
            key = changed[0]
            raise UserError(
                f"the run in {self.path} was started with {key} = {old[key]!r}, not {new[key]!r}; "
                "resume it with the same settings, or leave --resume out and choose another --out"
            )

    def save_state(self, state: RunState) -> None:
        """Write what continues the run from an epoch boundary, and keep what did so until now.

        Raises:
            UserError: a file cannot be written, as on a full disk.
        """
        if self.last.exists():
            _keep(self.last, self.previous)
        state.write(self.last)
        self._trained = True

    def load_state(self) -> tuple[RunState, str]:
        """Read what ``save_state`` wrote; a sentence tells where it is not the last state.

        Raises:
            UserError: no state is whole.
        """
        return newest_state((self.last, self.previous), self.path)


def _keep(file: Path, kept: Path) -> None:
    """Give a file a second name, which it keeps when another takes its place; a copy where links cannot be made."""
    with atomic_write(kept) as temporary:  # nothing happens where a process was killed behind this: both are one file
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def _remove(paths: list[Path], folders: list[Path]) -> None:
    """Remove files and folders of a run, and then the folders that are empty."""
    with contextlib.suppress(OSError):
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def config_of_run(path: Path | str) -> TrainConfig:
    """Read the settings of the run in a folder, for ``--resume``.

    Raises:
        UserError: there is no run, or its ``config.toml`` is damaged.
    """
    folder = RunFolder(Path(path))
    folder.require_run()
    return make_config(read_config(folder.config))

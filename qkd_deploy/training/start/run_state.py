"""What a run goes on from after a stop: where its training stands, and which run that belongs to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from qkd_deploy.checkpoints.torch_file import read_tensors, save_tensors
from qkd_deploy.checkpoints.weights_file import missing, split_archive
from qkd_deploy.data.sets.files import file_digest
from qkd_deploy.errors import UserError, unreadable
from qkd_deploy.settings import MOST_THREADS
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.monitoring.metrics import digest_of_lines

_FORMAT = "qkd-deploy run state 3"
"""2 since scales are learned as movements; 3 since a state says which run it belongs to."""
_AGAIN = "or start again with another --out"


@dataclass(frozen=True)
class RunIdentity:
    """Everything that decides a run's weights, but for the code that computes them.

    Attributes:
        settings: of the run, as JSON holds them.
        data: the fingerprint of its images and labels.
        weights: SHA-256 of the files of weights that the settings name, by path.
        threads: on the CPU.
        device: the kind, such as "cpu".
        processes: that train together.
    """

    settings: dict[str, Any]
    data: str
    weights: dict[str, str]
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    device: str
    processes: int

    def require_same(self, now: RunIdentity, folder: Path) -> None:
        """Refuse to go on with another run than the one that began.

        Args:
            now: what would go on.
            folder: of the run, for messages.

        Raises:
            UserError: something differs; the message says what.
        """
        for key, value in now.settings.items():
            if self.settings.get(key) != value:
                raise UserError(
                    f"{folder / 'config.toml'} says {key} = {value!r}, but the run was trained with "
                    f"{self.settings.get(key)!r}; put that back, {_AGAIN}"
                )
        for path, digest in now.weights.items():
            if self.weights.get(path) != digest:
                raise UserError(f"{path} has changed since the run in {folder} began; put the old file back, {_AGAIN}")
        if self.data != now.data:
            raise UserError(
                f"the data have changed since the run in {folder} began (fingerprint {self.data}, now {now.data}); "
                f"put the old ones back, {_AGAIN}"
            )
        if self.processes != now.processes:
            raise UserError(
                f"the run in {folder} was begun by {self.processes} processes, not {now.processes}; start as many "
                f"(torchrun --nproc-per-node), {_AGAIN}"
            )
        if self.device != now.device:
            raise UserError(
                f"the run in {folder} was begun on {self.device}, not {now.device}; resume it there, {_AGAIN}"
            )


@dataclass(frozen=True)
class RunState:
    """A run at the end of an epoch.

    Attributes:
        identity: of the run.
        loop: of the stage that is trained, from ``PhaseLoop.state_dict``; None before the first epoch.
        lines: epochs in ``metrics.jsonl``.
        metrics: SHA-256 of those lines.
        files: SHA-256 of the finished files that later stages start from, by their names in ``checkpoints``.
    """

    identity: RunIdentity
    loop: dict[str, Any] | None = None
    lines: Annotated[int, Field(ge=0)] = 0
    metrics: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the state.

        Raises:
            UserError: the file cannot be written.
        """
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        save_tensors(path, {**content, "format": _FORMAT, "identity": asdict(self.identity)})

    @classmethod
    def read(cls, path: Path) -> RunState:
        """Read what ``write`` wrote.

        Raises:
            UserError: the file is missing, damaged, or of another version.
        """
        content = read_tensors(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise UserError(f"{path} is not the state of a run, or one of another version")
        values = {item.name: content[item.name] for item in fields(cls) if item.name in content}
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise UserError(f"{path} is not the state of a run") from error

    def require_files(self, folder: Path) -> None:
        """Refuse a state whose run has lost, or changed, a file that it counts on.

        Args:
            folder: of the run.

        Raises:
            UserError: there is one.
        """
        for name, digest in self.files.items():
            path = folder / "checkpoints" / name
            if not path.is_file() or file_digest(path, "sha256") != digest:
                raise UserError(f"{path} is missing, or not the one that the run wrote")
        metrics = folder / "metrics.jsonl"
        if self.lines and digest_of_lines(metrics, self.lines) != self.metrics:
            raise UserError(f"{metrics} lacks lines of its {self.lines} epochs, or has others than the run wrote")


def identity_of(config: TrainConfig, data: str, threads: int, device: str, processes: int) -> RunIdentity:
    """Collect what decides a run's weights; see ``RunIdentity`` for the arguments.

    Raises:
        UserError: a file of weights cannot be read.
    """
    weights = digests_of_weights(config)
    return RunIdentity(json.loads(json.dumps(asdict(config))), data, weights, threads, device, processes)


def digests_of_weights(config: TrainConfig) -> dict[str, str]:
    """Hash the files of weights that the settings of a run name, by SHA-256.

    Raises:
        UserError: one cannot be read.
    """
    named = {str(split_archive(path)[0]) for path in (config.init, config.teacher_checkpoint) if path}
    try:
        return {path: file_digest(Path(path), "sha256") for path in sorted(named)}
    except FileNotFoundError as error:
        raise missing(error.filename) from error
    except OSError as error:
        raise unreadable(error.filename, error) from error


def newest_state(paths: tuple[Path, Path], folder: Path) -> tuple[RunState, str]:
    """Read the newest state of a run that is whole.

    Args:
        paths: of the last state and of the one before it.
        folder: of the run.

    Returns:
        the state, and a sentence where it is not the last one.

    Raises:
        UserError: neither is whole; says what is wrong with the last one.
    """
    reasons = []
    for path in paths:
        try:
            state = RunState.read(path)
            state.require_files(folder)
        except UserError as error:
            reasons.append(str(error).partition(";")[0])
        else:
            return state, f"{reasons[0]}; going on from the epoch before it" if reasons else ""
    raise UserError(f"{reasons[0]}; put an undamaged copy back, {_AGAIN}")


def damaged(path: Path, error: Exception) -> UserError:
    """Make the error of a state that does not fit its own run."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return UserError(f"{path} does not fit the run ({reason}); put an undamaged copy back, {_AGAIN}")

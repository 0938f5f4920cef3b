"""Train, export and verify one entry of a sweep, or take its result from an earlier call."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qkd_deploy.atomic import atomic_write
from qkd_deploy.checkpoints.records import TrainingRecord
from qkd_deploy.data.sets.files import file_digest
from qkd_deploy.errors import UserError
from qkd_deploy.sweep.plan import Entry
from qkd_deploy.sweep.processes import Processes, StepFailed
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.run_folder import RunFolder
from qkd_deploy.training.start.run_state import digests_of_weights
from qkd_deploy.verification.settings import VerifyOptions
from qkd_deploy.workflows.next_command import data_options, model_option

_PATIENCE = 60
"""Seconds that a training may take to end after its sweep was killed."""


@dataclass(frozen=True)
class EntryResult:
    """The result of an entry.

    Attributes:
        id: of the entry, and the name of its folder.
        verified: ``verify`` passed on the exported file.
        verify: the options of ``verify``.
        measure: what is measured: "accuracy" of classifiers.
        accuracy: percent, as ONNX Runtime measures it on the exported file; None where the entry failed, or the
            images have no labels.
        preview, frozen: the same of the fake-quantized and of the frozen model.
        figures: all that the task measures, by name, as ONNX Runtime reaches it; ``accuracy`` is the first.
        images, dataset: the number of images and the data set that it was measured on.
        compared_codes, differing_codes: between the integer model and ONNX Runtime.
        float_operations: operators that ONNX Runtime computes in float.
        float_accuracy, float_figures: of the full-precision weights that the student started from, where their file
            tells.
        teacher_accuracy: of the teacher after training; None without one.
        seconds: of training, in the call that finished it.
        failure: why it is not verified; empty where it is.
        files: SHA-256 of the files that it was measured on and trained from, by name.
        fingerprint: of the images and labels that it was trained and measured on.
    """

    id: str
    verified: bool
    verify: dict[str, Any]
    accuracy: float | None = None
    preview: float | None = None
    frozen: float | None = None
    measure: str = "accuracy"
    figures: dict[str, float] = field(default_factory=dict)
    images: int | None = None
    dataset: str | None = None
    compared_codes: int | None = None
    differing_codes: int | None = None
    float_operations: int | None = None
    float_accuracy: float | None = None
    float_figures: dict[str, float] = field(default_factory=dict)
    teacher_accuracy: float | None = None
    seconds: int | None = None
    failure: str = ""
    files: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""


def finished(
    entry: Entry, folder: Path, verify: VerifyOptions, fingerprint: Callable[[TrainConfig], str]
) -> EntryResult | None:
    """Read the result of an earlier call, if the entry is trained and verified in the same way, from the same files.

    Args:
        entry: of the sweep.
        folder: of the entry.
        verify: the options of ``verify``.
        fingerprint: looks up that of the data that settings name, as they are now.
    """
    try:
        result = EntryResult(**json.loads((folder / "result.json").read_text(encoding="utf-8")))
        then = (result.id, result.verify, result.files)
        if not result.verified or then != (entry.id, asdict(verify), _files(entry.config, folder)):
            return None
        return result if result.fingerprint == fingerprint(entry.config) else None
    except (OSError, ValueError, TypeError, UserError):
        return None


def _files(config: TrainConfig, folder: Path) -> dict[str, str]:
    """Hash the files that a result rests on."""
    made = {name: file_digest(folder / name, "sha256") for name in ("model.pt", "model.onnx")}
    return {**digests_of_weights(config), **made}


def _await_orphan(folder: Path) -> None:
    """Wait until a training that a killed sweep left has ended."""
    if (folder / ".lock").exists():
        with FileLock(folder / ".lock", timeout=_PATIENCE):
            pass


def run_entry(entry: Entry, folder: Path, verify: VerifyOptions, processes: Processes) -> EntryResult:
    """Train (or go on training), export and verify; a command that fails is a result too.

    Raises:
        Stopped: the sweep was interrupted; the folder can be continued.
        UserError: the folder cannot be written.
    """
    log = folder / "log.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        _await_orphan(folder)
        started = time.monotonic()
        processes.run(_train(entry, folder), log)
        seconds = round(time.monotonic() - started)
        processes.run(_export(entry.config, folder), log)
        answer = folder / "verify.json"
        processes.run(_verify(entry.config, folder, verify, answer), log, answer=answer)
        report = json.loads(answer.read_text(encoding="utf-8"))
        files, state = _files(entry.config, folder), RunFolder(folder).load_state()[0]
    except Timeout:
        return EntryResult(entry.id, False, asdict(verify), failure=f"another run is training in {folder}")
    except StepFailed as failure:
        return EntryResult(entry.id, False, asdict(verify), failure=str(failure))
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another --out") from error
    start = _recorded(entry.config.init or folder / "checkpoints" / "student-float.pt")
    teacher = _recorded(folder / "teacher.pt")
    result = EntryResult(
        entry.id,
        report["passed"],
        asdict(verify),
        accuracy=report["accuracy"]["runtime"],
        preview=report["accuracy"]["preview"],
        frozen=report["accuracy"]["frozen"],
        measure=report["metric"],
        figures=report["figures"].get("runtime", {}),
        images=report["images"],
        dataset=(report["dataset"] or {}).get("name"),
        compared_codes=report["compared_codes"],
        differing_codes=report["differing_codes"],
        float_operations=len(report["float_ops"]),
        float_accuracy=None if start is None else start.accuracy,
        float_figures={} if start is None else start.figures,
        teacher_accuracy=None if teacher is None else teacher.accuracy,
        seconds=seconds,
        failure="" if report["passed"] else f"verify: {report['verdict']}",
        files=files,
        fingerprint=state.identity.data,
    )
    _write(result, folder / "result.json")
    return result


def _train(entry: Entry, folder: Path) -> list[str]:
    command = ["train", "--out", str(folder)]
    if (folder / "config.toml").exists():
        return [*command, "--resume"]
    import tomli_w

    settings = folder / "settings.toml"
    with atomic_write(settings) as temporary:
        temporary.write_text(tomli_w.dumps(entry.given), encoding="utf-8")
    return [*command, "--config", str(settings)]


def _export(config: TrainConfig, folder: Path) -> list[str]:
    output = ["--output", str(folder / "model.onnx")]
    return ["export", "--bits", config.bits, *model_option(config.model), *output, str(folder / "model.pt")]


def _verify(config: TrainConfig, folder: Path, options: VerifyOptions, answer: Path) -> list[str]:
    command = ["verify", *data_options(vars(config)), "--checkpoint", str(folder / "model.pt")]
    command += model_option(config.model)
    command += ["--require-integer"] if options.require_integer else []
    command += ["--strict-codes"] if options.strict_codes else []
    command += ["--tolerance", str(options.tolerance), "--json", str(answer)]
    return [*command, str(folder / "model.onnx")]


def _recorded(checkpoint: Path | str) -> TrainingRecord | None:
    """Read what a checkpoint records of its training; None where there is none, or no checkpoint of ours."""
    from qkd_deploy.checkpoints.checkpoint import load_checkpoint

    try:
        return load_checkpoint(checkpoint).training
    except UserError:
        return None


def _write(result: EntryResult, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")

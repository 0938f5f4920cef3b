"""From a checkpoint to files for other runtimes, and back: ``export --target`` and ``verify`` of what that wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.file import TargetReport, build_target_file, export_for
from qkd_deploy.export.targets.record import read_record
from qkd_deploy.export.targets.registry import require_installed, target_named, target_of, targets_by_suffix
from qkd_deploy.export.targets.target import Target
from qkd_deploy.gate.onnx_file import LARGEST_FILE
from qkd_deploy.verification.on_target import Subject, verify_on_target
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.workflows.export import load_trained, output_beside


def export_to_target(
    path: Path | str,
    target: str,
    output: Path | str | None = None,
    *,
    bits: str | BitWidths | None = None,
    model: str | nn.Module | None = None,
    weights: str = "int8",
    input: str = "float32",
) -> TargetReport:
    """Write the integer model of a checkpoint for a runtime other than ONNX Runtime, after running it there.

    Args:
        path: the ``model.pt`` of a training run.
        target: the name of the runtime (``target_names``).
        output: the file to write; by default beside the checkpoint, with the target's suffix.
        bits: what the checkpoint must be trained at; None accepts any.
        model: the network, where it is the user's own (see ``rebuild``).
        weights: "int8", or "packed" where the target has a form for it.
        input: "float32", or "uint8" for raw pixels.

    Raises:
        UserError: as ``load_trained`` and ``export_for``, or the output is the checkpoint itself.
    """
    chosen = target_named(target)
    require_installed(chosen)
    file = _output(path, output, chosen)
    trained = load_trained(path, model=model, bits=bits)
    return export_for(trained.prepared, file, chosen, weights=weights, input=input, metadata=trained.metadata)


def _output(path: Path | str, output: Path | str | None, target: Target) -> Path:
    file = output_beside(path, output, target.suffix)
    if not file.name.endswith(target.suffix):
        raise UserError(
            f"files for {target.name} end in {target.suffix}, by which verify knows them; use --output "
            f"{file.with_name(file.name.partition('.')[0] + target.suffix)}"
        )
    return file


def read_subject(path: Path | str, target: str | None = None) -> Subject | None:
    """Read a file for a target other than ``ort``; None for any other file.

    Args:
        path: the file.
        target: what it has to be for; None takes what it is.

    Raises:
        UserError: it cannot be read, or is for another target.
    """
    file = Path(path)
    content = _content(file) if targets_by_suffix(file) else None  # others are read by the reader of ONNX files
    found = None if content is None else target_of(file, content)
    if found is None or content is None:
        if target not in (None, "ort"):
            suffix = target_named(str(target)).suffix
            raise UserError(
                f"{file} is no file for {target}; give the {suffix} file that "
                f"`qkd-deploy export --target {target}` wrote"
            )
        return None
    own, text = found
    if target not in (None, own.name):
        raise UserError(f"{file} was written for {own.name}, not {target}; use --target {own.name}, or leave it out")
    return Subject(file, content, own, read_record(text, str(file)))


def require_for_onnx_runtime(path: Path | str) -> None:
    """Refuse a file for another target, where the parts of files for ONNX Runtime are shown.

    Raises:
        UserError: says for which target it was written, and what to give instead.
    """
    subject = read_subject(path)
    if subject is not None:
        raise UserError(
            f"{path} was written for {subject.target.name}; give the ONNX file that `qkd-deploy export` writes of the "
            "same checkpoint"
        )


def _content(file: Path) -> bytes | None:
    """The bytes of a regular file; None leaves it to the reader of ONNX files to say what is wrong."""
    try:
        if file.is_file() and file.stat().st_size <= LARGEST_FILE:
            return file.read_bytes()
    except (OSError, ValueError):
        pass
    return None


def verify_subject(
    subject: Subject, *, checkpoint: Path | str | None = None, model: str | nn.Module | None = None, **options: Any
) -> VerificationReport:
    """Verify a file for a target as ``verify_on_target`` does, also against its checkpoint.

    Args:
        subject: the file, from ``read_subject``.
        checkpoint: the ``model.pt`` of a training run; None verifies the file by itself.
        model: the network, where it is the user's own (see ``rebuild``).
        options: further arguments of ``verify_on_target``.

    Raises:
        UserError: as ``load_trained`` and ``verify_on_target``.
    """
    require_installed(subject.target)
    if checkpoint is not None:
        subject = beside_checkpoint(subject, checkpoint, model)
    return verify_on_target(subject, **options)


def beside_checkpoint(subject: Subject, checkpoint: Path | str, model: str | nn.Module | None = None) -> Subject:
    """The same file with a fresh one of a checkpoint to compare it with.

    Raises:
        UserError: as ``load_trained`` and ``build_target_file``.
    """
    trained, stored = load_trained(checkpoint, model=model), subject.record.metadata
    form: dict[str, Any] = {"weights": stored.get("weights", "int8"), "input": stored.get("input", "float32")}
    fresh = build_target_file(
        trained.prepared, subject.target, **form, metadata=trained.metadata, runtime=subject.record.runtime
    )
    return replace(subject, expected=fresh, checkpoint=str(checkpoint))

"""The files that are timed: read, and brought into the form that their runtime takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qkd_deploy.bench.macs import macs_of
from qkd_deploy.bench.report import INTEGER
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.export.settings import ORT
from qkd_deploy.export.targets.record import End, read_record
from qkd_deploy.export.targets.registry import require_installed, target_named, target_of
from qkd_deploy.export.targets.target import Simulated, TakesOnnx
from qkd_deploy.gate.onnx_file import LARGEST_FILE, read_exported, read_onnx
from qkd_deploy.runtimes.limited_run import limited_run
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault, SessionInput


@dataclass(frozen=True)
class Contestant:
    """A file to time.

    Attributes:
        path: as the user names it.
        file: what the runtime loads.
        runtime: the target whose runtime it is.
        title: of the runtime.
        inputs: of the model, in its order.
        sizes: those that the model leaves open beside the batch.
        model: the ONNX model that it is or was made from; None for a file of another kind.
        metadata: what a file for a target says of itself.
        trusted: whether it may run without limits.
    """

    path: Path
    file: Path
    runtime: str
    title: str
    inputs: tuple[SessionInput, ...]
    sizes: tuple[int, ...] = ()
    model: onnx.ModelProto | None = None
    trusted: bool = False
    metadata: Metadata | None = None

    @property
    def simulates(self) -> str:
        """The device that the runtime simulates; "" for one that computes itself."""
        if self.runtime == ORT:
            return ""
        target = target_named(self.runtime)
        return target.simulates if isinstance(target, Simulated) else ""

    @property
    def macs(self) -> int | None:
        """Multiplications and additions for one sample; None where they cannot be counted."""
        return None if self.model is None or self.sizes else macs_of(self.model)


@dataclass(frozen=True)
class Terms:
    """On what all files are measured: images of a run, threads, and a folder for files in the form of a runtime."""

    batch: int
    threads: int
    folder: Path


def measured_file(path: Path, runtime: str | None, terms: Terms) -> Contestant:
    """Read the file that is measured.

    Args:
        path: a file of ``export``, for any target.
        runtime: the target whose runtime is to run an ONNX file; None takes ONNX Runtime, or what the file is for.
        terms: of the measurement.

    Raises:
        UserError: it cannot be used, or not in that runtime.
    """
    made = _for_target(path, runtime)
    if made is not None:
        return made
    exported = read_exported(path)
    sizes, easy = read_metadata(exported.model).open_sizes, exported.cost.easy
    found = _onnx(path, exported.model, sizes, trusted=easy)
    return _moved(found, runtime, terms, INTEGER)


def other_file(path: Path, runtime: str, sizes: tuple[int, ...], terms: Terms) -> Contestant:
    """Read a file to compare with: for any target, or any ONNX file.

    Args:
        path: the file.
        runtime: of an ONNX file; one that takes no ONNX files leaves it to ONNX Runtime.
        sizes: of inputs that it leaves open.
        terms: of the measurement.

    Raises:
        UserError: it cannot be used.
    """
    made = _for_target(path, None)
    if made is not None:
        return made
    return _moved(_onnx(path, read_onnx(path).model, sizes), _onnx_runtime(runtime), terms, "other")


def float_file(model: onnx.ModelProto, name: str, runtime: str, sizes: tuple[int, ...], terms: Terms) -> Contestant:
    """Write a model of the checkpoint's for a runtime, or for ONNX Runtime where that one takes no ONNX models."""
    file = terms.folder / f"{name}.onnx"
    file.write_bytes(model.SerializeToString())
    return _moved(_onnx(file, model, sizes, trusted=True), _onnx_runtime(runtime), terms, name)


def _onnx(path: Path, model: onnx.ModelProto, sizes: tuple[int, ...], *, trusted: bool = False) -> Contestant:
    return Contestant(path, path, ORT, OnnxRuntime.name, _inputs(model), sizes, model, trusted)


def _for_target(path: Path, runtime: str | None) -> Contestant | None:
    """A file of another kind than ONNX; None leaves it to the reader of ONNX files to say what is wrong."""
    try:
        content = path.read_bytes() if path.is_file() and path.stat().st_size <= LARGEST_FILE else b""
    except (OSError, ValueError):
        return None
    found = target_of(path, content)
    if found is None:
        return None
    target, text = found
    if runtime not in (None, target.name):
        raise UserError(f"{path} runs in {target.title} alone; leave --runtime out, or give an .onnx file")
    require_installed(target)
    record = read_record(text, str(path))
    inputs = tuple(map(_input, record.inputs))
    return Contestant(path, path, target.name, target.title, inputs, metadata=record.described())


def _onnx_runtime(runtime: str) -> str | None:
    """The runtime where it takes ONNX models; None for ONNX Runtime."""
    return runtime if runtime != ORT and isinstance(target_named(runtime), TakesOnnx) else None


def _moved(found: Contestant, runtime: str | None, terms: Terms, name: str) -> Contestant:
    """An ONNX file, in the form of another runtime; one that nobody vouches for runs within limits first."""
    if not found.trusted:
        try:
            limited_run(found.file, terms.batch, terms.threads, sizes=found.sizes)
        except RuntimeFault as error:
            raise cannot_run(found, error) from error
    if runtime in (None, ORT):
        return found
    target = target_named(str(runtime))
    require_installed(target)
    if not isinstance(target, TakesOnnx):
        raise UserError(
            f"{target.title} takes no ONNX files; measure the {target.suffix} file that "
            f"`qkd-deploy export --target {target.name}` writes"
        )
    assert found.model is not None
    file = terms.folder / f"{name}{target.suffix}"
    file.write_bytes(target.from_onnx(found.model))
    return replace(found, file=file, runtime=target.name, title=target.title)


def cannot_run(contestant: Contestant, error: RuntimeFault) -> UserError:
    """What users are told when a runtime fails."""
    return UserError(f"{contestant.title} cannot run {contestant.path}: {error.last_line}; try another --batch or file")


def _inputs(model: onnx.ModelProto) -> tuple[SessionInput, ...]:
    constants = {tensor.name for tensor in model.graph.initializer}
    taken = [value for value in model.graph.input if value.name not in constants]
    return tuple(SessionInput(value.name, *_type(value.type.tensor_type)) for value in taken)


def _type(kind: onnx.TypeProto.Tensor) -> tuple[tuple[int | None, ...], np.dtype[Any]]:
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return sizes, helper.tensor_dtype_to_np_dtype(kind.elem_type)


def _input(end: End) -> SessionInput:
    return SessionInput(end.name, tuple(size or None for size in end.shape), np.dtype(end.dtype))

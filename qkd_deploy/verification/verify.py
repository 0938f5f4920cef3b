"""``verify_onnx``: proves that an exported file computes what was trained, or says where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING

import numpy as np
import onnx

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.errors import UserError, require_kind
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.gate.onnx_file import OnnxFile, read_exported
from qkd_deploy.graph.integer.cut import front_of
from qkd_deploy.graph.integer.given import as_frozen, as_prepared, require_deployable
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.runtimes.cpu import cpu_capabilities
from qkd_deploy.runtimes.runtime import Runtime
from qkd_deploy.verification.checks.accuracy import check_accuracy, recorded_for
from qkd_deploy.verification.checks.codes import check_codes
from qkd_deploy.verification.checks.decode import check_decode
from qkd_deploy.verification.checks.identity import check_identity
from qkd_deploy.verification.checks.information import check_information
from qkd_deploy.verification.checks.kernels import check_kernels
from qkd_deploy.verification.checks.preview import check_preview
from qkd_deploy.verification.decoding import decode_beside
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.job import Check, Job
from qkd_deploy.verification.model_under_test import ModelUnderTest
from qkd_deploy.verification.overflow.saturation import Saturation, find_saturation
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.verification.runnable import require_runnable, samples_at_a_time
from qkd_deploy.verification.source import Source, from_arrays, from_dataset, from_golden, of_other_sizes

if TYPE_CHECKING:
    from torch import nn

    from qkd_deploy.graph.integer.model import FrozenModel
    from qkd_deploy.graph.prepared import PreparedModel

CHECKS: dict[str, Check] = {
    "identity": check_identity,
    "codes": check_codes,
    "preview": check_preview,
    "decode": check_decode,
    "accuracy": check_accuracy,
    "kernels": check_kernels,
    "information": check_information,
}
"""The levels of a verification, in order; "decode" is for files behind which a tail was cut off."""


def verify_onnx(
    path: Path | str | OnnxFile,
    *,
    data: ImageDataset | None = None,
    inputs: np.ndarray | Mapping[str, np.ndarray] | None = None,
    frozen: nn.Module | None = None,
    prepared: nn.Module | None = None,
    expected: onnx.ModelProto | None = None,
    expected_decode: onnx.ModelProto | None = None,
    checkpoint: str = "the given export",
    split: str = "test",
    limit: int | None = None,
    tolerance: float | None = 0.1,
    require_integer: bool = False,
    strict_codes: bool = False,
    threads: tuple[int, ...] = (1, 2),
    batch_size: int = 64,
) -> VerificationReport:
    """Verify an exported file on the levels of ``CHECKS``, from identity to information.

    Args:
        path: the ONNX file, or what ``read_exported`` made of it.
        data: images, read batch by batch; without labels, only codes and outputs are compared; or
        inputs: an array for the model's only input, or arrays by input name: uint8 pixels or normalised floats. With
            neither, codes are compared on the golden inputs of the file.
        frozen: the frozen model of the checkpoint; None without one.
        prepared: the prepared model of the checkpoint, which is the float preview; None without one. Both may be
            wrapped: averages (EMA), models for several devices, compiled ones.
        expected: a fresh export of the checkpoint with the file's own options, which the whole file is compared with.
            Without it, a file that passes is CONSISTENT, not VERIFIED.
        expected_decode: the decode file of that export, where there is one.
        checkpoint: what ``expected`` was made from, for the verdict.
        split: "test" or "train".
        limit: verify on the first images only.
        tolerance: points of accuracy between preview and frozen model, None for any.
        require_integer: fail if anything computes in float.
        strict_codes: fail if codes are wasted: if parts of a tensor keep hardly any of the information of their values.
        threads: thread counts of the sessions that are compared.
        batch_size: samples at a time.

    Raises:
        UserError: the file or the data cannot be used (which is no verdict about the model).
    """
    require_kind(data, (ImageDataset, NoneType), "data", "give what load_dataset returns, or arrays as inputs")
    require_kind(path, (str, PathLike, OnnxFile), "the ONNX file", "give its path")
    file = path if isinstance(path, OnnxFile) else read_exported(path)
    model = file.model
    if frozen is not None:
        frozen = as_frozen(frozen, "verify_onnx(frozen=...)")
    if prepared is not None:
        prepared = as_prepared(prepared, "verify_onnx(prepared=...)")
        require_deployable(prepared, "verify_onnx")
    subject = _subject(file, frozen, prepared)
    require_runnable(file)
    source = _source(model, subject.metadata, data, inputs, split, limit)
    report = _empty_report(file, subject.runtime)
    report.metric = "accuracy" if data is None else data.measure
    report.checkpoint, report.given_model = None if expected is None else checkpoint, frozen is not None
    if data is not None:
        about = {"name": data.known_as, "fingerprint": data.fingerprint}
        report.dataset = {**about, "split": split, "images": source.images}
    job = Job(
        file,
        subject,
        source,
        report,
        expected,
        expected_decode,
        tolerance,
        require_integer,
        strict_codes,
        threads,
        samples_at_a_time(file, batch_size),
    )
    if data is not None and split == "test":
        job = replace(job, recorded=recorded_for(subject.metadata, data, source.images))
    job = replace(job, other_sizes=of_other_sizes(model, subject.metadata))
    with evaluating(prepared):
        for name, check in CHECKS.items():
            if name == "decode" and subject.metadata.decode is None:
                continue
            report.levels.append(_judged(name, check, job))
        report.saturation = _saturation(job)
    return report


def _subject(file: OnnxFile, frozen: FrozenModel | None, prepared: PreparedModel | None) -> ModelUnderTest:
    """The file with its models; where a tail was cut off behind it, it computes the integer part of the frozen one."""
    metadata, whole = read_metadata(file.model), frozen
    if metadata.decode is not None and frozen is not None:
        frozen = front_of(frozen)
        whole = None if frozen is whole else whole  # it was the integer part already
    return ModelUnderTest(file.model, metadata, frozen, prepared, whole, decode_beside(file, metadata.decode))


def _judged(name: str, check: Check, job: Job) -> Level:
    """The level of a check; what a changed file cannot even be asked counts as failed."""
    try:
        return check(job)
    except UserError as error:
        if not job.report.identity:
            raise
        return Level(name, "failed", (str(error),))


def _saturation(job: Job) -> Saturation | None:
    """Find what saturates, and where codes differ on a CPU that saturates, whether that is why."""
    subject, report = job.subject, job.report
    try:
        found = find_saturation(subject.model, subject.reference, subject.metadata, report.cpu)
    except UserError:  # the levels have said that the file cannot be read
        return None
    if found.layers and found.here and report.failed("codes"):
        return found.explained(_agrees_without_saturation(job))
    return found


def _agrees_without_saturation(job: Job) -> bool:
    """True where all codes are equal where no sum of 8-bit products saturates."""
    scratch = VerificationReport(job.report.path)
    again = replace(job, subject=replace(job.subject, precise=True), threads=(1,), report=scratch)
    return check_codes(again).status != "failed"


def _source(
    model: onnx.ModelProto,
    metadata: Metadata,
    data: ImageDataset | None,
    inputs: np.ndarray | Mapping[str, np.ndarray] | None,
    split: str,
    limit: int | None,
) -> Source:
    if data is not None and inputs is not None:
        raise UserError("give a data set or inputs, not both")
    if data is not None:
        return from_dataset(model, metadata, data, split, limit)
    if inputs is not None:
        return from_arrays(model, metadata, inputs, limit)
    return from_golden(model, metadata)


def _empty_report(file: OnnxFile, runtime: Runtime) -> VerificationReport:
    return VerificationReport(
        path=str(file.path),
        cpu=cpu_capabilities(),
        file_bytes=len(file.data),
        versions={"onnxruntime": runtime.version, "onnx": onnx.__version__, "numpy": np.__version__},
    )

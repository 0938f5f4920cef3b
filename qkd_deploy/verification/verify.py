"""``verify_onnx``: proves that an exported file computes what was trained, or says where it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime

from qkd_deploy.bench.benchmark import median_latencies
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.verification.checks import levels
from qkd_deploy.verification.checks.golden import golden_differences
from qkd_deploy.verification.checks.identity import Difference, against_digests, against_expected
from qkd_deploy.verification.load import load_model
from qkd_deploy.verification.model_under_test import ModelUnderTest
from qkd_deploy.verification.overflow.saturation import Saturation, find_saturation
from qkd_deploy.verification.report import Level, VerificationReport
from qkd_deploy.verification.runtime import cpu_capabilities
from qkd_deploy.verification.samples import ArraySamples
from qkd_deploy.verification.source import Source, from_arrays, from_dataset

if TYPE_CHECKING:
    from qkd_deploy.data.dataset import ImageDataset
    from qkd_deploy.graph.integer.model import FrozenModel
    from qkd_deploy.graph.prepared import PreparedModel


def verify_onnx(
    path: Path | str,
    *,
    data: ImageDataset | None = None,
    inputs: np.ndarray | Mapping[str, np.ndarray] | None = None,
    frozen: FrozenModel | None = None,
    prepared: PreparedModel | None = None,
    expected: onnx.ModelProto | None = None,
    split: str = "test",
    limit: int | None = None,
    tolerance: float | None = 0.1,
    require_integer: bool = False,
    threads: tuple[int, ...] = (1, 2),
    batch_size: int = 64,
) -> VerificationReport:
    """Verify an exported file on five levels: identity, codes, preview, accuracy and kernels.

    Args:
        path: the ONNX file.
        data: images, read batch by batch; without labels, only codes and outputs are compared; or
        inputs: an array for the model's only input, or arrays by input name: uint8 pixels or normalised floats. With
            neither, codes are compared on the golden inputs of the file.
        frozen: the frozen model of the checkpoint; None without one.
        prepared: the prepared model of the checkpoint, which is the float preview; None without one.
        expected: a fresh export of the checkpoint with the file's own options; every difference to it is found even
            when the digests of the file were rewritten.
        split: "test" or "train".
        limit: verify on the first images only.
        tolerance: points of accuracy between preview and frozen model, None for any.
        require_integer: fail if anything computes in float.
        threads: thread counts of the sessions that are compared.
        batch_size: samples at a time.

    Raises:
        UserError: the file or the data cannot be used (which is no verdict about the model).
    """
    model = load_model(path)
    subject = ModelUnderTest(model, read_metadata(model), frozen, prepared)
    source = _source(subject.model, subject.metadata, data, inputs, split, limit)
    report = _empty_report(Path(path))
    report.metric = source.metric_name
    if data is not None:
        about = {"name": data.known_as, "fingerprint": data.fingerprint}
        report.dataset = {**about, "split": split, "images": source.images}
    report.identity, identity = identity_level(subject, expected)
    report.levels.append(identity)
    steps: dict[str, Callable[[], Level]] = {
        "codes": lambda: levels.codes_level(subject, source, threads, batch_size, report),
        "preview": lambda: levels.preview_level(subject, source, batch_size),
        "accuracy": lambda: levels.accuracy_level(subject, source, threads, batch_size, tolerance, report),
        "kernels": lambda: levels.kernels_level(subject, require_integer, report),
    }
    with evaluating(prepared):
        report.levels += [_judged(name, step, identity) for name, step in steps.items()]
        report.saturation = _saturation(subject, source, batch_size, report)
    if report.passed:
        report.latency_seconds = median_latencies(path)
    return report


def _judged(name: str, step: Callable[[], Level], identity: Level) -> Level:
    """The level of ``step``; what a changed file cannot even be asked counts as failed."""
    try:
        return step()
    except UserError as error:
        if identity.status != "failed":
            raise
        return Level(name, "failed", (str(error),))


def _saturation(
    subject: ModelUnderTest, source: Source, batch_size: int, report: VerificationReport
) -> Saturation | None:
    """What saturates, and where codes differ on a CPU that saturates, whether that is why."""
    try:
        found = find_saturation(subject.model, subject.reference, subject.metadata, report.cpu)
    except UserError:  # the levels have said that the file cannot be read
        return None
    codes = next(level for level in report.levels if level.name == "codes")
    if not (found.layers and found.here and codes.status == "failed"):
        return found
    scratch = VerificationReport(report.path)
    precise = levels.codes_level(replace(subject, precise=True), source, (1,), batch_size, scratch)
    return found.explained(precise.status != "failed")


def identity_level(subject: ModelUnderTest, expected: onnx.ModelProto | None) -> tuple[list[Difference], Level]:
    """Digests, fresh export and golden results; every difference is named.

    Raises:
        UserError: reference or runtime cannot run a file that is what was exported.
    """
    metadata = subject.metadata
    differences = against_digests(subject.model, metadata)
    if expected is not None:
        found = {(difference.kind, difference.name) for difference in differences}
        differences += [d for d in against_expected(subject.model, expected, metadata) if (d.kind, d.name) not in found]
    if metadata.digests is None and expected is None:
        message = "the file carries no digests, so nothing says what it should be; give --checkpoint"
        differences.append(Difference("digests", "digests", "", message))
    try:
        if metadata.golden is not None:
            differences += golden_differences(subject, metadata.golden)
    except UserError as error:
        if not differences:
            raise
        differences.append(Difference("golden", "golden", "", str(error)))
    return differences, _identity_result(differences, metadata, expected is not None)


def _identity_result(differences: list[Difference], metadata: Metadata, checkpoint: bool) -> Level:
    if differences:
        first = differences[0]
        where = f" (in {first.module})" if first.module else ""
        more = f", and {len(differences) - 1} more differences" if len(differences) > 1 else ""
        return Level("identity", "failed", (f"{first.message}{where}{more}",))
    compared = [
        name
        for name, present in (
            ("its digests", metadata.digests is not None),
            ("a fresh export of the checkpoint", checkpoint),
            ("its golden codes", metadata.golden is not None),
        )
        if present
    ]
    return Level("identity", "passed", (f"the file agrees with {', '.join(compared)}",))


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
    if metadata.golden is None:
        raise UserError("the file carries no golden inputs; give --dataset or --inputs")
    return Source(model, metadata, ArraySamples(metadata.golden.inputs))


def _empty_report(path: Path) -> VerificationReport:
    return VerificationReport(
        path=str(path),
        cpu=cpu_capabilities(),
        file_bytes=path.stat().st_size,
        versions={"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "numpy": np.__version__},
    )

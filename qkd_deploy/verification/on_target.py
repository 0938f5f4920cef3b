"""``verify`` for files of other runtimes: their outputs against the integer model's, in steps of the outputs' grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.child import TargetProcess
from qkd_deploy.export.targets.file import TargetFile, outputs_of
from qkd_deploy.export.targets.record import TargetRecord
from qkd_deploy.export.targets.steps import StepsOff, on_their_grids
from qkd_deploy.export.targets.target import Target
from qkd_deploy.runtimes.cpu import cpu_capabilities
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.verification.checks.outputs import OutputsComparison
from qkd_deploy.verification.checks.tally import Tally
from qkd_deploy.verification.findings import Kernel, Level
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.verification.source import Source, from_arrays, from_dataset, from_golden

_BATCH = 64


@dataclass(frozen=True)
class Subject:
    """A file for a target, as it was read.

    Attributes:
        path: where it is.
        content: its bytes.
        target: what it is for.
        record: what it says of itself.
        expected: the same file made anew from its checkpoint; None without one.
        checkpoint: that checkpoint, for the verdict.
    """

    path: Path
    content: bytes
    target: Target
    record: TargetRecord
    expected: TargetFile | None = None
    checkpoint: str = ""


def verify_on_target(
    subject: Subject,
    *,
    data: ImageDataset | None = None,
    inputs: np.ndarray | dict[str, np.ndarray] | None = None,
    split: str = "test",
    limit: int | None = None,
    require_integer: bool = False,
    threads: int = 1,
) -> VerificationReport:
    """Verify a file in the runtime that it is for.

    Args:
        subject: the file, with a fresh one of its checkpoint where there is one: the codes of that one's integer model
            are what the runtime must compute. Without it, outputs are compared on the golden inputs alone.
        data: images to compare and to measure on, or
        inputs: an array, or arrays by input name.
        split: "test" or "train".
        limit: verify on the first images only.
        require_integer: fail if the runtime computes anything in float.
        threads: of the runtime.

    Raises:
        UserError: the data do not fit, or the runtime is not installed.
    """
    metadata, stub = subject.record.described(), subject.record.stub()
    if data is not None and inputs is not None:
        raise UserError("give a data set or inputs, not both")
    source = from_golden(stub, metadata)
    if data is not None:
        source = from_dataset(stub, metadata, data, split, limit)
    elif inputs is not None:
        source = from_arrays(stub, metadata, inputs, limit)
    report = _empty_report(subject, data, split, source)
    report.levels.append(_identity(subject))
    try:
        with TargetProcess(subject.target, subject.path, threads) as running:
            report.versions[subject.target.name] = running.version
            report.levels.append(_golden(subject, running))
            report.levels.extend(_codes(subject, running, source, report))
            report.levels.append(_kernels(subject.target.title, running, report, require_integer))
    except RuntimeFault as error:
        report.levels.append(Level("codes", "failed", (f"{subject.target.title} cannot run the file: {error}",)))
    return report


def _empty_report(subject: Subject, data: ImageDataset | None, split: str, source: Source) -> VerificationReport:
    report = VerificationReport(
        path=str(subject.path),
        cpu=cpu_capabilities(),
        file_bytes=len(subject.content),
        versions={"onnx": onnx.__version__, "numpy": np.__version__},
        checkpoint=None if subject.expected is None else subject.checkpoint,
        target=subject.target.title,
    )
    if data is not None:
        report.metric = data.measure
        report.dataset = {"name": data.known_as, "fingerprint": data.fingerprint, "split": split}
        report.dataset["images"] = source.images
    return report


def _identity(subject: Subject) -> Level:
    """The file is what its digest says, and what its checkpoint gives today."""
    problems = []
    try:
        intact = subject.record.digest(subject.content) == subject.record.content
    except ValueError:
        intact = False
    if not intact:
        problems.append("the file is not the one that was exported: its content has another digest than it says")
    if subject.expected is None:
        return Level("identity", "failed" if problems else "passed", (*problems, "the digest fits the content")[:1])
    fresh = subject.expected
    problems += _record_differences(subject.record, fresh.record)
    if _meaning(subject.target, subject.content, subject.record) != _meaning(fresh.target, fresh.content, fresh.record):
        problems.append(f"the content is not what {subject.checkpoint} is exported to")
    summary = f"the file is what {subject.checkpoint} is exported to, in every constant and operator"
    return Level("identity", "failed" if problems else "passed", tuple(problems or [summary]))


def _meaning(target: Target, content: bytes, record: TargetRecord) -> bytes | None:
    """What a file holds beside its record, which is compared by itself; None for a damaged one."""
    try:
        return target.meaning(content.replace(record.text.encode(), b"=" * len(record.text)))
    except Exception:  # noqa: BLE001  # offsets of a damaged file lead anywhere
        return None


def _record_differences(stored: TargetRecord, fresh: TargetRecord) -> Iterator[str]:
    """Entries that a fresh export says otherwise; the runtime's version is that of the day."""
    for name in ("target", "tolerance", "inputs", "outputs"):
        if getattr(stored, name) != getattr(fresh, name):
            yield f"the file says {name} {getattr(stored, name)}, and a fresh export {getattr(fresh, name)}"
    for key in sorted(stored.metadata.keys() | fresh.metadata.keys()):
        if stored.metadata.get(key) != fresh.metadata.get(key):
            yield f"the metadata entry {key} is another one than a fresh export writes"


def _golden(subject: Subject, running: TargetProcess) -> Level:
    """Outputs for the golden inputs are those that were recorded."""
    golden = subject.record.described().golden
    if golden is None or not golden.outputs:
        return Level("golden", "skipped", ("the file holds no golden outputs",))
    off = StepsOff(subject.record)
    got = on_their_grids(subject.record, running.run(golden.inputs))
    parts = [recorded.part_of(array) for recorded, array in zip(golden.outputs, got, strict=True)]
    off.add([recorded.values for recorded in golden.outputs], parts)
    ends = zip(subject.record.outputs, golden.outputs, got, strict=True)
    elsewhere = [end.name for end, known, array in ends if end.scale is not None and not known.holds(array)]
    if elsewhere and not off.differing and not subject.record.tolerance:
        told = f"{subject.target.title} gives other codes in {elsewhere[0]} than recorded, where only a digest is"
        return Level("golden", "failed", (told,))
    return _judged("golden", off, subject, f"on {len(golden.inputs[0])} golden inputs")


def _judged(name: str, off: StepsOff, subject: Subject, where: str) -> Level:
    allowed = subject.record.tolerance
    failed = off.worst > allowed or (not allowed and off.differing)
    told = f"{off.in_words()} between the integer model and {subject.target.title} {where}"
    if allowed:
        told += f"; {allowed} allowed"
        told += "" if off.agreement is None else f", classes agree on {off.agreement:.2f} %"
    return Level(name, "failed" if failed else "passed", (told,))


def _codes(subject: Subject, running: TargetProcess, source: Source, report: VerificationReport) -> Iterator[Level]:
    """Outputs on all samples, and what the task measures of each side."""
    names, off = [end.name for end in subject.record.inputs], StepsOff(subject.record)
    tally = Tally(OutputsComparison({end.name: False for end in subject.record.outputs}, 1.0), source.data)
    for batch in source.batches(_BATCH):
        feeds = [batch.feeds[name] for name in names]
        sides = {"runtime": running.run(feeds)}
        if subject.expected is not None:
            sides["frozen"] = outputs_of(subject.expected.frozen, subject.record, feeds)
            off.add(sides["frozen"], sides["runtime"])
        tally.add(sides, batch.samples, batch.labels)
    report.images = tally.images
    if subject.expected is None:
        yield Level("codes", "skipped", ("without a checkpoint, outputs are compared on the golden inputs alone",))
    else:
        report.compared_codes, report.differing_codes, report.steps_off = off.compared, off.differing, off.worst
        yield _judged("codes", off, subject, f"on {report.images} inputs")
    yield from _measured(tally, off, report, subject)


def _measured(tally: Tally, off: StepsOff, report: VerificationReport, subject: Subject) -> Iterator[Level]:
    """Accuracy, or what else the task measures, and the agreement of classes."""
    report.agreement = off.agreement
    agreed = "" if report.agreement is None else f"; classes agree on {report.agreement:.2f} % of the images"
    report.figures = tally.figures
    if not report.figures:
        return
    report.accuracy |= tally.percent
    told = [f"{side} {value:.2f} %" for side, value in report.accuracy.items() if value is not None]
    differ = not subject.record.tolerance and len({tuple(values.values()) for values in report.figures.values()}) > 1
    sentence = f"{report.metric}: {', '.join(told)} on {report.images} images{agreed}"
    yield Level("accuracy", "failed" if differ else "passed", (sentence,))


def _kernels(title: str, running: TargetProcess, report: VerificationReport, require_integer: bool) -> Level:
    """What the runtime says that it runs."""
    found = running.kernels()
    if not found:
        return Level("kernels", "skipped", ("the runtime does not say what it runs",))
    report.kernels = [Kernel(kernel.name, title, kernel.integer) for kernel in found for _ in range(kernel.count)]
    floats = ", ".join(f"{kernel.count} {kernel.name}" for kernel in found if not kernel.integer)
    integers = ", ".join(f"{kernel.count} {kernel.name}" for kernel in found if kernel.integer)
    told = f"in integers: {integers or 'nothing'}" + (f"; in float: {floats}" if floats else "")
    return Level("kernels", "failed" if floats and require_integer else "passed", (told,))

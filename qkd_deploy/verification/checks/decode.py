"""Does the decode file belong to the integer file, and do both together answer as the network does?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from qkd_deploy.export.decode import sampled
from qkd_deploy.export.metadata import DecodeMetadata, Metadata, content_digest
from qkd_deploy.verification.checks.fresh_export import against_expected
from qkd_deploy.verification.checks.identity import against_digests
from qkd_deploy.verification.checks.torch_side import outputs_of
from qkd_deploy.verification.compare import output_difference
from qkd_deploy.verification.decoding import DecodeFile
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.job import Job
from qkd_deploy.verification.onnx_graph import names_of
from qkd_deploy.verification.runtime import RuntimeModel

TOLERANCE = 1e-4
"""Of an output's largest value: float operators may differ in their last bits."""


def check_decode(job: Job) -> Level:
    """Compare the decode file with what both files say of it, then the outputs of the chain with the network's own.

    Raises:
        UserError: the runtime cannot run a decode file that is what was exported.
    """
    record, decode = job.subject.metadata.decode, job.subject.decode
    assert record is not None  # checks are chosen so
    if not record.file:
        left = ", ".join(record.tail)
        return Level("decode", "skipped", (f"the file ends in front of the tail, which is left to you: {left}",))
    if decode is None:
        return Level("decode", "skipped", (f"{record.file} does not lie beside the file, which was verified alone",))
    problems = list(_identity(job, decode))
    if not problems:
        problems = list(_outputs(job, decode))
    if problems:
        return Level("decode", "failed", tuple(f"{decode.file.path.name} {problem}" for problem in problems))
    return Level("decode", "passed", (_summary(job, decode),))


def _identity(job: Job, decode: DecodeFile) -> Iterator[str]:
    """Clauses about a file that is another one, or that was changed."""
    record, metadata, model = job.subject.metadata.decode, decode.metadata, decode.file.model
    assert record is not None
    if metadata is None:
        yield "is no decode file; export again"
        return
    if metadata.decodes.sha256 != job.file.sha256:
        yield f"does not belong to {job.file.path.name}: it decodes another export; export again"
    for difference in _differences(job, metadata, model):
        yield f"was changed: {difference}"
    if content_digest(model) != record.sha256:
        yield f"is not the tail that {job.file.path.name} was exported with; export again"
    if names_of(model.graph.input) != names_of(job.subject.model.graph.output):
        yield "takes other maps than the file gives; export again"


def _differences(job: Job, metadata: DecodeMetadata, model: onnx.ModelProto) -> list[str]:
    """What differs from the digests of the file itself, and from a fresh export of the checkpoint."""
    described = Metadata(version=metadata.version, bits="", placement="", digests=metadata.digests)
    if metadata.digests is None:
        return ["it carries no digests"]
    found = against_digests(model, described)
    if not found and job.expected_decode is not None:
        found = against_expected(model, job.expected_decode, described)
    return [difference.message for difference in found]


def _outputs(job: Job, decode: DecodeFile) -> Iterator[str]:
    """Clauses about outputs that differ from those of the network by more than float operators may."""
    for name, found in _chain(job, decode).items():
        if not found <= TOLERANCE:
            yield f"and the file give an output {name} that differs from the network's by {found:.2g} of its range"


def _chain(job: Job, decode: DecodeFile) -> dict[str, float]:
    """By output, the largest difference of the chain of both files: from the recorded values, and from the network."""
    subject, largest = job.subject, dict.fromkeys(names_of(decode.file.model.graph.output), 0.0)
    runtime = RuntimeModel(subject.model, max(job.threads), precise=subject.precise, runtime=subject.runtime)

    def compare(found: list[np.ndarray], known: Sequence[np.ndarray]) -> None:
        for number, (name, array) in enumerate(zip(largest, found, strict=True)):
            difference = _difference(array, known[number]) if len(known) == len(found) else float("inf")
            largest[name] = max(largest[name], difference)

    golden, recorded = subject.metadata.golden, decode.metadata
    if golden is not None and recorded is not None:
        maps = runtime.run(dict(zip(names_of(subject.model.graph.input), golden.inputs, strict=True)))
        compare([*map(sampled, decode.run(maps).values())], recorded.golden)
    if subject.whole is not None:
        limit = job.code_images
        for batch in job.source.batches(min(job.batch_size, limit), limit):
            compare([*decode.run(runtime.run(batch.feeds)).values()], outputs_of(subject.whole, batch.floats))
    job.report.decode_difference = max(largest.values(), default=0.0)
    return largest


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference relative to the largest value, of numbers of one type."""
    return output_difference(one.astype(float), other.astype(float)) if one.dtype == other.dtype else float("inf")


def _summary(job: Job, decode: DecodeFile) -> str:
    count = len(decode.file.model.graph.output)
    against = "the recorded ones"
    if job.subject.whole is not None:
        against = f"the float head of the frozen model on {job.code_images} inputs"
    return (
        f"{decode.file.path.name} belongs to the file, and {count} outputs of both are within "
        f"{job.report.decode_difference:.2g} of the range of {against} (allowed: {TOLERANCE:g})"
    )

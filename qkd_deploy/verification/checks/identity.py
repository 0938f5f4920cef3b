"""Is this file the one that was exported? Constants, nodes and metadata against digests or against a fresh export."""

from __future__ import annotations

import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata, graph_digests
from qkd_deploy.verification.checks.fresh_export import against_expected, compare, golden_against, graph_difference
from qkd_deploy.verification.checks.golden import golden_differences
from qkd_deploy.verification.findings import Difference, Level
from qkd_deploy.verification.job import Job
from qkd_deploy.verification.model_under_test import ModelUnderTest


def check_identity(job: Job) -> Level:
    """Compare the file with its digests, with a fresh export of the checkpoint, and with its golden results.

    Raises:
        UserError: reference or runtime cannot run a file that is what was exported.
    """
    job.report.identity, level = identity_level(job.subject, job.expected)
    return level


def identity_level(subject: ModelUnderTest, expected: onnx.ModelProto | None) -> tuple[list[Difference], Level]:
    """Digests, fresh export and golden results; every difference is named.

    Raises:
        UserError: reference or runtime cannot run a file that is what was exported.
    """
    metadata = subject.metadata
    differences = against_digests(subject.model, metadata)
    if expected is not None:
        found = {(difference.kind, difference.name) for difference in differences}
        fresh = against_expected(subject.model, expected, metadata)
        differences += [difference for difference in fresh if (difference.kind, difference.name) not in found]
    elif metadata.digests is None:
        message = "the file carries no digests, so nothing says what it should be; export it again"
        differences.append(Difference("digests", "digests", "", message))
    try:
        differences += golden_differences(subject, metadata.golden)
        differences += [] if expected is None else golden_against(subject, expected)
    except UserError as error:
        if not differences:
            raise
        differences.append(Difference("golden", "golden", "", str(error)))
    if differences:
        return differences, _failed(differences)
    return [], _passed(metadata, expected is not None)


def _failed(differences: list[Difference]) -> Level:
    first, others = differences[0], len(differences) - 1
    where = f" (in {first.module})" if first.module else ""
    more = f", and {others} more differences" if others else ""
    return Level("identity", "failed", (f"{first.message}{where}{more}",))


def _passed(metadata: Metadata, checkpoint: bool) -> Level:
    sources = {
        "its digests": metadata.digests is not None,
        "a fresh export of the checkpoint": checkpoint,
        "its golden codes": metadata.golden is not None,
    }
    compared = ", ".join(name for name, present in sources.items() if present)
    return Level("identity", "passed", (f"the file agrees with {compared}",))


def against_digests(model: onnx.ModelProto, metadata: Metadata) -> list[Difference]:
    """Everything that differs from the digests in the file's own metadata; none if there are no digests."""
    stored = metadata.digests
    if stored is None:
        return []
    found = graph_digests(model)
    differences = []
    for kind, now, then in (
        ("constant", found.initializers, stored.initializers),
        ("node", found.nodes, stored.nodes),
        ("metadata", found.metadata, stored.metadata),
    ):
        differences += compare(kind, now, then, metadata, lambda name: "differs from its digest")
    if found.graph != stored.graph:
        differences.append(graph_difference("inputs, outputs, node order or operator set differ from their digest"))
    return differences

"""Is this file the one that was exported? Constants, nodes and metadata against digests or against a fresh export."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import PREFIX, Metadata, graph_digest, graph_digests, named_nodes, node_digest
from qkd_deploy.verification.checks.golden import golden_differences
from qkd_deploy.verification.findings import Difference, Level
from qkd_deploy.verification.model_under_test import ModelUnderTest
from qkd_deploy.verification.task import Task

# Entries that describe the model itself; versions, hashes and results may differ between two exports of one checkpoint.
COMPARED_ENTRIES = (
    "bits",
    "placement",
    "weights",
    "input",
    "tensors",
    "layers",
    "normalization",
    "preprocessing",
    "classes",
    "checkpoint_sha256",
    "tail",
)


def check_identity(task: Task) -> Level:
    """Compare the file with its digests, with a fresh export of the checkpoint, and with its golden results.

    Raises:
        UserError: reference or runtime cannot run a file that is what was exported.
    """
    task.report.identity, level = identity_level(task.subject, task.expected)
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
        message = "the file carries no digests, so nothing says what it should be; give --checkpoint"
        differences.append(Difference("digests", "digests", "", message))
    try:
        differences += golden_differences(subject, metadata.golden)
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
        differences += _compare(kind, now, then, metadata, lambda name: "differs from its digest")
    if found.graph != stored.graph:
        differences.append(_graph_difference("inputs, outputs, node order or operator set differ from their digest"))
    return differences


def against_expected(model: onnx.ModelProto, expected: onnx.ModelProto, metadata: Metadata) -> list[Difference]:
    """Everything that differs from ``expected``, a fresh export of the checkpoint with the same options."""
    constants, expected_constants = _constants(model), _constants(expected)
    nodes, expected_nodes = named_nodes(model), named_nodes(expected)
    entries, expected_entries = _entries(model), _entries(expected)

    def describe(name: str) -> str:
        return _array_change(constants[name], expected_constants[name])

    differences = _compare(
        "constant",
        {name: tensor.SerializeToString(deterministic=True).hex() for name, tensor in constants.items()},
        {name: tensor.SerializeToString(deterministic=True).hex() for name, tensor in expected_constants.items()},
        metadata,
        describe,
    )
    differences = [difference for difference in differences if difference.message]
    differences += _compare(
        "node",
        {name: node_digest(node) for name, node in nodes.items()},
        {name: node_digest(node) for name, node in expected_nodes.items()},
        metadata,
        lambda name: _node_change(nodes[name], expected_nodes[name]),
    )
    if graph_digest(model) != graph_digest(expected):
        differences.append(_graph_difference("inputs, outputs, node order or operator set differ from the checkpoint"))
    differences += [
        Difference("metadata", PREFIX + key, "", f"metadata entry {key} differs from the checkpoint")
        for key, value in expected_entries.items()
        if entries.get(key) != value
    ]
    return differences


def _compare(
    kind: str,
    found: Mapping[str, str],
    wanted: Mapping[str, str],
    metadata: Metadata,
    describe: Callable[[str], str],
) -> list[Difference]:
    def difference(name: str, message: str) -> Difference:
        module = "" if kind == "metadata" else metadata.module_of(name)
        return Difference(kind, name, module, message and f"{kind} {name} {message}")

    changed = [difference(n, describe(n)) for n in wanted if n in found and found[n] != wanted[n]]
    missing = [difference(n, "is missing") for n in wanted if n not in found]
    extra = [difference(n, "was added") for n in found if n not in wanted]
    return changed + missing + extra


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _entries(model: onnx.ModelProto) -> dict[str, str]:
    entries = {prop.key.removeprefix(PREFIX): prop.value for prop in model.metadata_props if PREFIX in prop.key}
    return {key: value for key, value in entries.items() if key in COMPARED_ENTRIES}


def _array_change(found: onnx.TensorProto, wanted: onnx.TensorProto) -> str:
    """Describe the difference of two constants; empty where only the way of storing differs."""
    try:
        now, then = numpy_helper.to_array(found), numpy_helper.to_array(wanted)
    except (ValueError, TypeError, KeyError):
        return "cannot be read"
    if now.dtype != then.dtype or now.shape != then.shape:
        return f"is {now.dtype}{list(now.shape)} instead of {then.dtype}{list(then.shape)}"
    if now.tobytes() == then.tobytes():
        return ""
    bits = (np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(now.size, -1) for array in (now, then))
    changed = np.flatnonzero(np.not_equal(*bits).any(axis=1))
    first = int(changed[0])
    where = [int(i) for i in np.unravel_index(first, now.shape)]
    values = f"{now.flat[first]!s} instead of {then.flat[first]!s} at {where}"
    return f"has {changed.size} of {now.size} values changed, first {values}"


def _node_change(found: onnx.NodeProto, wanted: onnx.NodeProto) -> str:
    if found.op_type != wanted.op_type:
        return f"is {found.op_type} instead of {wanted.op_type}"
    if list(found.input) != list(wanted.input):
        return f"reads {list(found.input)} instead of {list(wanted.input)}"
    if list(found.output) != list(wanted.output):
        return f"writes {list(found.output)} instead of {list(wanted.output)}"
    return "has other attributes"


def _graph_difference(message: str) -> Difference:
    return Difference("graph", "graph", "", f"the graph's {message}")

"""The whole file against a fresh export of its checkpoint: what is compared is everything, not a list of parts.

Some metadata entries may differ: ``version``, what wrote the file; ``digests``, which must fit the file itself;
the results in ``golden``, see ``golden_against``; and ``decodes``, the digest of the file that a decode file is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from qkd_deploy.export.metadata import PREFIX, Metadata, graph_digest, named_nodes, node_digest, read_metadata
from qkd_deploy.verification.checks.golden import golden_differences
from qkd_deploy.verification.findings import Difference
from qkd_deploy.verification.model_under_test import ModelUnderTest

_MAY_DIFFER = ("version", "digests", "golden", "decodes")


def against_expected(model: onnx.ModelProto, expected: onnx.ModelProto, metadata: Metadata) -> list[Difference]:
    """Everything in the file that differs from ``expected``, a fresh export of the checkpoint with the same options.

    Golden results are left to ``golden_against``.
    """
    constants, expected_constants = _constants(model), _constants(expected)
    nodes, expected_nodes = named_nodes(model), named_nodes(expected)

    def describe(name: str) -> str:
        return _array_change(constants[name], expected_constants[name])

    differences = compare(
        "constant",
        {name: tensor.SerializeToString(deterministic=True).hex() for name, tensor in constants.items()},
        {name: tensor.SerializeToString(deterministic=True).hex() for name, tensor in expected_constants.items()},
        metadata,
        describe,
    )
    differences = [difference for difference in differences if difference.message]
    differences += compare(
        "node",
        {name: node_digest(node) for name, node in nodes.items()},
        {name: node_digest(node) for name, node in expected_nodes.items()},
        metadata,
        lambda name: _node_change(nodes[name], expected_nodes[name]),
    )
    if graph_digest(model) != graph_digest(expected):
        differences.append(graph_difference("inputs, outputs, node order or operator set differ from the checkpoint"))
    differences += _entries_against(_entries(model), _entries(expected))
    if not differences and _without_entries(model) != _without_entries(expected):
        message = "the file holds what a fresh export of the checkpoint holds, but in another order or form"
        differences.append(Difference("file", "file", "", message))
    return differences


def _entries_against(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[Difference]:
    """Metadata entries that differ; of those in ``_MAY_DIFFER`` only their absence counts."""
    age = _age(found, wanted)
    changed = [key for key in wanted if key in found and found[key] != wanted[key] and key not in _MAY_DIFFER]
    sentences = {key: f"metadata entry {key} differs from the checkpoint{age}" for key in changed}
    sentences |= {key: f"metadata entry {key} is missing{age}" for key in wanted if key not in found}
    sentences |= {key: f"metadata entry {key} was added{age}" for key in found if key not in wanted}
    return [Difference("metadata", PREFIX + key, "", sentence) for key, sentence in sentences.items()]


def _age(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """What explains an honest difference: the file was written by another version."""
    writer, own = found.get("version"), wanted.get("version")
    return "" if writer == own else f" (the file says that qkd-deploy {writer} wrote it; this is {own})"


def _without_entries(model: onnx.ModelProto) -> bytes:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for entry in bare.metadata_props:
        entry.ClearField("value")
    data: bytes = bare.SerializeToString(deterministic=True)
    return data


def golden_against(subject: ModelUnderTest, expected: onnx.ModelProto) -> list[Difference]:
    """Golden results of a fresh export that the file does not give, or does not record in the same form.

    Outputs behind float operators may differ in their last digits where the file was written on another machine.

    Raises:
        UserError: reference or runtime cannot run the model.
    """
    own, fresh = subject.metadata.golden, read_metadata(expected).golden
    if own is None or fresh is None or _entries(subject.model)["golden"] == _entries(expected)["golden"]:
        return []
    alike = own.recipes == fresh.recipes and own.codes.keys() == fresh.codes.keys()
    if not alike or [array.shape for array in own.outputs] != [array.shape for array in fresh.outputs]:
        return [Difference("metadata", f"{PREFIX}golden", "", "the golden recipe differs from the checkpoint")]
    return golden_differences(subject, fresh)


def compare(
    kind: str,
    found: Mapping[str, str],
    wanted: Mapping[str, str],
    metadata: Metadata,
    describe: Callable[[str], str],
) -> list[Difference]:
    """What changed, is missing or was added between two tables of digests, in the words of ``describe``."""

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
    return {entry.key.removeprefix(PREFIX): entry.value for entry in model.metadata_props}


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


def graph_difference(message: str) -> Difference:
    """What is said of the graph as a whole."""
    return Difference("graph", "graph", "", f"the graph's {message}")

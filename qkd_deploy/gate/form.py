"""Which fields of ONNX's messages exported files have: no functions, subgraphs, sparse or external constants."""

from __future__ import annotations

from google.protobuf.message import Message
from onnx import AttributeProto, ModelProto

from qkd_deploy.gate.names import GRAPH, PREFIX, PRODUCER
from qkd_deploy.gate.refusal import NotAsExportedError

FIELDS: dict[str, frozenset[str]] = {
    "ModelProto": frozenset({"ir_version", "producer_name", "graph", "opset_import", "metadata_props"}),
    "OperatorSetIdProto": frozenset({"domain", "version"}),
    "StringStringEntryProto": frozenset({"key", "value"}),
    "GraphProto": frozenset({"node", "name", "initializer", "input", "output", "value_info"}),
    "NodeProto": frozenset({"input", "output", "name", "op_type", "domain", "attribute", "metadata_props"}),
    "AttributeProto": frozenset({"name", "type", "f", "i", "s", "t", "floats", "ints", "strings"}),
    "TensorProto": frozenset({"dims", "data_type", "name", "raw_data"}),
    "ValueInfoProto": frozenset({"name", "type"}),
    "TypeProto": frozenset({"tensor_type"}),
    "Tensor": frozenset({"elem_type", "shape"}),
    "TensorShapeProto": frozenset({"dim"}),
    "Dimension": frozenset({"dim_value", "dim_param"}),
}
"""By message, all fields that it may have; "Tensor" and "Dimension" are parts of types."""

_VALUES = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}
"""By type of an attribute, the field that holds its value."""
_NODE_ENTRIES = {"scale", "zero_point"}
"""Metadata of a node: what its integer operand stands for."""


def require_form(model: ModelProto) -> None:
    """Refuse a model with fields that exported files do not have, or with values that they never hold.

    Raises:
        NotAsExportedError: with the first of them.
    """
    _require_fields(model)
    _require_constant_texts(model)
    _require_unique("metadata entry", [entry.key for entry in model.metadata_props])
    for node in model.graph.node:
        _require_attributes(node.name, list(node.attribute))
        if not {entry.key for entry in node.metadata_props} <= _NODE_ENTRIES:
            raise NotAsExportedError(f"the node {node.name!r} has metadata that are not of ours")


def _require_fields(message: Message) -> None:
    """Refuse unknown kinds of content, in a message and all in it, and texts that are no UTF-8."""
    name = message.DESCRIPTOR.name
    allowed = FIELDS.get(name, frozenset())
    for field, value in message.ListFields():
        if field.name not in allowed:
            raise NotAsExportedError(f"it has the field {field.name!r} in a {name}")
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                _require_fields(part)
        elif field.type == field.TYPE_STRING:
            _require_text(name, field.name, (value,) if isinstance(value, (str, bytes)) else value)


def _require_text(message: str, field: str, texts: tuple[str | bytes, ...]) -> None:
    if not all(isinstance(text, str) for text in texts):  # protobuf gives bytes that are no UTF-8 as they are
        raise NotAsExportedError(f"the field {field!r} of a {message} is no UTF-8 text")


def _require_constant_texts(model: ModelProto) -> None:
    """What every exported file says alike."""
    if model.producer_name != PRODUCER:
        raise NotAsExportedError(f"its producer is {model.producer_name!r}")
    if model.graph.name != GRAPH:
        raise NotAsExportedError(f"its graph is called {model.graph.name!r}")
    if [entry.domain for entry in model.opset_import] != [""]:
        raise NotAsExportedError("it imports other operators than those of one version of ONNX")
    foreign = [entry.key for entry in model.metadata_props if not entry.key.startswith(PREFIX)]
    if foreign:
        raise NotAsExportedError(f"it has the metadata entry {foreign[0]!r}")


def _require_unique(what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise NotAsExportedError(f"it has two {what.removesuffix('y')}ies called {twice!r}")


def _require_attributes(node: str, attributes: list[AttributeProto]) -> None:
    """Each attribute once, and with one value, of its type."""
    names = [attribute.name for attribute in attributes]
    if len(set(names)) != len(names):
        raise NotAsExportedError(f"the node {node!r} has an attribute twice")
    for attribute in attributes:
        held = {field.name for field, _ in attribute.ListFields()} - {"name", "type"}
        if attribute.type not in _VALUES or not held <= {_VALUES[attribute.type]}:
            raise NotAsExportedError(f"the attribute {attribute.name!r} of the node {node!r} is not of one type")

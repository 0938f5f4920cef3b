"""ONNX models as files of targets: what they say of themselves is an entry of their metadata."""

from __future__ import annotations

import onnx

from qkd_deploy.gate.names import PREFIX

RECORD = f"{PREFIX}target"
"""The name under which files keep their record, in whatever place a format has for metadata."""


def with_record(model: onnx.ModelProto, record: str) -> onnx.ModelProto:
    """Store a record in a model, in place."""
    onnx.helper.set_model_props(model, {RECORD: record})
    return model


def record_in(content: bytes) -> str | None:
    """Read the record from the metadata of an ONNX file; None where there is none, or the bytes are of another kind."""
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception:  # noqa: BLE001  # whatever protobuf raises for a file of another kind
        return None
    return {entry.key: entry.value for entry in model.metadata_props}.get(RECORD)


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a file, the same for the same model."""
    return bytes(model.SerializeToString(deterministic=True))

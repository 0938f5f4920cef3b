"""Write the metadata of an exported file and read it back: ONNX keeps pairs of strings, structured entries are JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata.digests import Digests, graph_digests
from qkd_deploy.export.metadata.golden import decode_golden, encode_golden
from qkd_deploy.export.metadata.records import LayerRecord, Metadata, TensorRecord
from qkd_deploy.gate.names import PREFIX

_T = TypeVar("_T")


def write_metadata(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Store ``metadata`` in ``model`` (in place), then the digests of the finished file. Call it last."""
    plain: dict[str, str | None] = {
        "version": metadata.version,
        "bits": metadata.bits,
        "placement": metadata.placement,
        "weights": metadata.weights,
        "input": metadata.input,
        "checkpoint_sha256": metadata.checkpoint_sha256,
        "tensors": _dump([asdict(record) for record in metadata.tensors]),
        "layers": _dump([asdict(record) for record in metadata.layers]),
        "golden": None if metadata.golden is None else _dump(encode_golden(metadata.golden)),
        "normalization": _dump(metadata.normalization),
        "classes": _dump(metadata.classes),
        "accuracy": _dump(metadata.accuracy),
        "quantizer": metadata.quantizer or None,
        "replaced": _dump(metadata.replaced or None),
        "preprocessing": _dump(metadata.preprocessing),
        "tail": _dump(metadata.tail or None),
    }
    _replace(model, plain)
    _replace(model, {"digests": json.dumps(asdict(graph_digests(model)))})


def read_metadata(model: onnx.ModelProto) -> Metadata:
    """Parse the metadata of an exported file.

    Raises:
        UserError: the file was not written by ``qkd-deploy export``, or an entry cannot be read.
    """
    entries = {p.key[len(PREFIX) :]: p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    missing = {"version", "bits", "tensors", "layers"} - entries.keys()
    if missing:
        raise UserError(
            f"not exported by qkd-deploy: the file has no metadata entry {PREFIX}{min(missing)}; "
            "write it with `qkd-deploy export`"
        )
    return Metadata(
        version=entries["version"],
        bits=entries["bits"],
        placement=entries.get("placement", ""),
        weights=entries.get("weights", ""),
        input=entries.get("input", ""),
        checkpoint_sha256=entries.get("checkpoint_sha256"),
        tensors=_parsed(entries, "tensors", lambda rows: tuple(TensorRecord(**row) for row in rows)) or (),
        layers=_parsed(entries, "layers", lambda rows: tuple(LayerRecord(**row) for row in rows)) or (),
        golden=_parsed(entries, "golden", decode_golden),
        normalization=_parsed(entries, "normalization", dict),
        classes=_parsed(entries, "classes", lambda names: tuple(str(name) for name in names)),
        accuracy=_parsed(entries, "accuracy", dict),
        quantizer=entries.get("quantizer", ""),
        replaced=_parsed(entries, "replaced", dict) or {},
        preprocessing=_parsed(entries, "preprocessing", dict),
        tail=_parsed(entries, "tail", lambda names: tuple(str(name) for name in names)) or (),
        digests=_parsed(entries, "digests", lambda table: Digests(**table)),
    )


def _parsed(entries: Mapping[str, str], key: str, build: Callable[[Any], _T]) -> _T | None:
    if key not in entries:
        return None
    try:
        return build(json.loads(entries[key]))
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, OSError) as error:
        raise UserError(f"the metadata entry {PREFIX}{key} is damaged ({error}); export the model again") from error


def _dump(value: Any) -> str | None:
    """JSON; numpy numbers are written as plain ones."""
    return None if value is None else json.dumps(value, default=lambda number: number.item())


def _replace(model: onnx.ModelProto, entries: Mapping[str, str | None]) -> None:
    kept = {p.key: p.value for p in model.metadata_props}
    for key, value in entries.items():
        kept.pop(PREFIX + key, None)
        if value is not None:
            kept[PREFIX + key] = value
    onnx.helper.set_model_props(model, kept)

"""Write the metadata of an exported file and read it back: ONNX keeps pairs of strings, structured entries are JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata.digests import graph_digests
from qkd_deploy.export.metadata.golden import encode_golden
from qkd_deploy.export.metadata.records import Metadata
from qkd_deploy.export.metadata.schema import (
    ACCURACY,
    DIGESTS,
    LAYERS,
    NAMES,
    PREPROCESSING,
    REPLACED,
    SIZE_MULTIPLE,
    TENSORS,
    parsed,
    parsed_golden,
    parsed_normalization,
)
from qkd_deploy.gate.names import PREFIX


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
        "size_multiple": _dump(metadata.size_multiple),
        "requires_onnxruntime": metadata.requires_onnxruntime or None,
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
        tensors=parsed(entries, "tensors", TENSORS) or (),
        layers=parsed(entries, "layers", LAYERS) or (),
        golden=parsed_golden(entries),
        normalization=parsed_normalization(entries),
        classes=parsed(entries, "classes", NAMES),
        accuracy=parsed(entries, "accuracy", ACCURACY),
        quantizer=entries.get("quantizer", ""),
        replaced=parsed(entries, "replaced", REPLACED) or {},
        preprocessing=parsed(entries, "preprocessing", PREPROCESSING),
        requires_onnxruntime=entries.get("requires_onnxruntime", ""),
        tail=parsed(entries, "tail", NAMES) or (),
        size_multiple=parsed(entries, "size_multiple", SIZE_MULTIPLE),
        digests=parsed(entries, "digests", DIGESTS),
    )


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

"""Write the metadata of an exported file and read it back: ONNX keeps pairs of strings, structured entries are JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata.digests import graph_digests
from qkd_deploy.export.metadata.golden import encode_array, encode_golden
from qkd_deploy.export.metadata.records import DecodeMetadata, Metadata
from qkd_deploy.export.metadata.schema import (
    ACCURACY,
    DECODE,
    DECODES,
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
    parsed_samples,
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
        "decode": None if metadata.decode is None else _dump(asdict(metadata.decode)),
        "size_multiple": _dump(metadata.size_multiple),
        "requires_onnxruntime": metadata.requires_onnxruntime or None,
    }
    _replace(model, plain)
    _replace(model, {"digests": json.dumps(asdict(graph_digests(model)))})


def read_metadata(model: onnx.ModelProto) -> Metadata:
    """Parse the metadata of an exported file.

    Raises:
        UserError: the file was not written by ``qkd-deploy export``, or is a decode file, or an entry cannot be read.
    """
    entries = _entries(model)
    if "decodes" in entries:
        owner = parsed(entries, "decodes", DECODES)
        assert owner is not None
        raise UserError(
            f"the file is the decode file of {owner.file}, a float tail that is verified and inspected with that file; "
            f"give {owner.file}"
        )
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
        decode=parsed(entries, "decode", DECODE),
        size_multiple=parsed(entries, "size_multiple", SIZE_MULTIPLE),
        digests=parsed(entries, "digests", DIGESTS),
    )


def write_decode_metadata(model: onnx.ModelProto, metadata: DecodeMetadata) -> None:
    """Store the metadata of a decode file in ``model`` (in place), then its digests. Call it last."""
    plain: dict[str, str | None] = {
        "version": metadata.version,
        "decodes": _dump(asdict(metadata.decodes)),
        "tail": _dump(metadata.tail),
        "golden": _dump([encode_array(array) for array in metadata.golden]),
        "requires_onnxruntime": metadata.requires_onnxruntime or None,
    }
    _replace(model, plain)
    _replace(model, {"digests": json.dumps(asdict(graph_digests(model)))})


def read_decode_metadata(model: onnx.ModelProto) -> DecodeMetadata | None:
    """Parse the metadata of a decode file; None for a file that is none.

    Raises:
        UserError: an entry cannot be read.
    """
    entries = _entries(model)
    decodes = parsed(entries, "decodes", DECODES)
    if decodes is None:
        return None
    return DecodeMetadata(
        version=entries.get("version", ""),
        decodes=decodes,
        tail=parsed(entries, "tail", NAMES) or (),
        golden=parsed_samples(entries),
        requires_onnxruntime=entries.get("requires_onnxruntime", ""),
        digests=parsed(entries, "digests", DIGESTS),
    )


def _entries(model: onnx.ModelProto) -> dict[str, str]:
    """The entries of ours, by their keys without the prefix."""
    return {p.key[len(PREFIX) :]: p.value for p in model.metadata_props if p.key.startswith(PREFIX)}


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

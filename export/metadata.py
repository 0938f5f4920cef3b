"""What an exported file says about itself: bits, tables, golden results and a digest of every constant and node.

ONNX keeps metadata as pairs of strings, so structured entries are JSON. Digests are the first 16 hexadecimal digits of
SHA-256. They protect against accidents and name what changed; whoever can rewrite the file can rewrite them too, which
is why ``verify --checkpoint`` compares with a fresh export as well.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import numpy_helper

from qkd_deploy.errors import UserError

PREFIX = "qkd_deploy."
_T = TypeVar("_T")


@dataclass(frozen=True)
class TensorRecord:
    """One quantized activation: ``value`` is the ONNX value with its uint8 codes, ``lo`` and ``hi`` their range."""

    name: str
    value: str
    module: str
    bits: int
    scale: float
    zero_point: int
    lo: int
    hi: int


@dataclass(frozen=True)
class LayerRecord:
    """One layer with weights; ``upscale`` is the factor between learned and stored weight integers."""

    name: str
    module: str
    op: str
    weight_bits: int
    activation_bits: int
    upscale: int
    kernel: str


@dataclass(frozen=True)
class GoldenInput:
    """How to make a golden input anew, so that the file need not hold images.

    Attributes:
        shape: with the batch.
        lo, hi: range of the stored codes.
        zero_point, scale: of the input's grid; a scale of None leaves the codes as uint8.
    """

    shape: tuple[int, ...]
    lo: int
    hi: int
    zero_point: int
    scale: float | None

    def array(self) -> np.ndarray:
        """Codes by an integer hash of the position, the same on every machine; float32 values unless scale is None."""
        count = int(np.prod(self.shape))
        hashed = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(2**32) >> np.uint64(13)
        codes = (self.lo + (hashed % np.uint64(self.hi - self.lo + 1)).astype(np.int64)).reshape(self.shape)
        if self.scale is None:
            return codes.astype(np.uint8)
        return (codes - self.zero_point).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class Golden:
    """How to make the inputs, the outputs in graph order (one batch each), and digests of the codes by tensor name."""

    recipes: tuple[GoldenInput, ...]
    codes: dict[str, str]
    outputs: tuple[np.ndarray, ...]

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """The inputs in graph order."""
        return tuple(recipe.array() for recipe in self.recipes)


@dataclass(frozen=True)
class Digests:
    """Digests by initializer name, node name and metadata key; ``graph`` is the one of :func:`graph_digest`."""

    initializers: dict[str, str]
    nodes: dict[str, str]
    metadata: dict[str, str]
    graph: str


@dataclass(frozen=True)
class Metadata:
    """Everything that ``export`` writes beside the graph. ``digests`` is computed by :func:`write_metadata`."""

    version: str
    bits: str
    placement: str
    weights: str = "int8"
    input: str = "float32"
    tensors: tuple[TensorRecord, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
    golden: Golden | None = None
    normalization: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    checkpoint_sha256: str | None = None
    accuracy: Mapping[str, Any] | None = None
    quantizer: str = ""
    digests: Digests | None = field(default=None, compare=False)

    def module_of(self, name: str) -> str:
        """The user's module that a node, constant or value belongs to, from the tables or else from the name itself."""
        known = {layer.name: layer.module for layer in self.layers}
        known |= {tensor.name: tensor.module for tensor in self.tensors}
        owner, slash, _ = name.rpartition("/")
        stem = owner if slash else name if name in known else name.rpartition(".")[0]
        if stem not in known and stem.rpartition(".")[0] in known:  # "conv1.weight/DequantizeLinear"
            stem = stem.rpartition(".")[0]
        return known.get(stem) or stem or name


def array_digest(array: np.ndarray) -> str:
    """Digest of an array's type, shape and bytes (C order)."""
    header = f"{array.dtype.name}{list(array.shape)}".encode()
    return _sha(header + np.ascontiguousarray(array).tobytes())


def constant_digest(tensor: onnx.TensorProto) -> str:
    """Digest of an initializer's array; of its stored form where that holds no array of its type and shape."""
    try:
        return array_digest(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError):
        return _sha(tensor.SerializeToString(deterministic=True))


def graph_digests(model: onnx.ModelProto) -> Digests:
    """Digests of every constant, node and metadata entry of ``model`` (its stored digests excepted)."""
    entries = {prop.key: prop.value for prop in model.metadata_props}
    return Digests(
        initializers={tensor.name: constant_digest(tensor) for tensor in model.graph.initializer},
        nodes={key: node_digest(node) for key, node in named_nodes(model).items()},
        metadata={
            key: _sha(value.encode())
            for key, value in sorted(entries.items())
            if key.startswith(PREFIX) and key != PREFIX + "digests"
        },
        graph=graph_digest(model),
    )


def named_nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Nodes by name, in order; a node without a name of its own is called after its operator and first output."""
    nodes: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        unique = node.name and node.name not in nodes
        nodes[node.name if unique else f"{node.op_type}:{','.join(node.output)}"] = node
    return nodes


def node_digest(node: onnx.NodeProto) -> str:
    """Digest of operator, inputs, outputs and attributes; names, order of attributes and comments do not count."""
    parts = [node.domain, node.op_type, json.dumps(list(node.input)), json.dumps(list(node.output))]
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        plain = onnx.AttributeProto()
        plain.CopyFrom(attribute)
        plain.ClearField("doc_string")
        parts.append(plain.SerializeToString(deterministic=True).hex())
    return _sha("\n".join(parts).encode())


def graph_digest(model: onnx.ModelProto) -> str:
    """Digest of graph inputs and outputs with their types, the order of nodes, operator sets and local functions."""
    parts = [value.SerializeToString(deterministic=True).hex() for value in (*model.graph.input, *model.graph.output)]
    parts.append(json.dumps([len(model.graph.input), list(named_nodes(model))]))
    parts.append(json.dumps(sorted((entry.domain, entry.version) for entry in model.opset_import)))
    parts += [function.SerializeToString(deterministic=True).hex() for function in model.functions]
    return _sha("\n".join(parts).encode())


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
        "golden": None if metadata.golden is None else _dump(_encode_golden(metadata.golden)),
        "normalization": _dump(metadata.normalization),
        "classes": _dump(metadata.classes),
        "accuracy": _dump(metadata.accuracy),
        "quantizer": metadata.quantizer or None,
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
        golden=_parsed(entries, "golden", _decode_golden),
        normalization=_parsed(entries, "normalization", dict),
        classes=_parsed(entries, "classes", lambda names: tuple(str(name) for name in names)),
        accuracy=_parsed(entries, "accuracy", dict),
        quantizer=entries.get("quantizer", ""),
        digests=_parsed(entries, "digests", lambda table: Digests(**table)),
    )


def encode_array(array: np.ndarray) -> str:
    """An array as base64 text of its .npy form."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_array(text: str) -> np.ndarray:
    """Inverse of :func:`encode_array`; refuses pickled content (ValueError)."""
    array: np.ndarray = np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False)
    return array


def _encode_golden(golden: Golden) -> dict[str, Any]:
    return {
        "inputs": [asdict(recipe) for recipe in golden.recipes],
        "codes": golden.codes,
        "outputs": [encode_array(array) for array in golden.outputs],
    }


def _decode_golden(table: dict[str, Any]) -> Golden:
    return Golden(
        recipes=tuple(GoldenInput(**{**row, "shape": tuple(row["shape"])}) for row in table["inputs"]),
        codes={str(name): str(digest) for name, digest in table["codes"].items()},
        outputs=tuple(decode_array(text) for text in table["outputs"]),
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


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]

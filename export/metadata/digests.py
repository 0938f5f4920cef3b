"""Digests of every constant, node and metadata entry of an ONNX model: the first 16 hexadecimal digits of SHA-256.

They protect against accidents and name what changed. Whoever can rewrite the file can rewrite them too, which is why
``verify --checkpoint`` compares with a fresh export as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper
from pydantic import ConfigDict

from qkd_deploy.export.metadata.fields import EXACT
from qkd_deploy.gate.names import PREFIX


@dataclass(frozen=True)
class Digests:
    """Digests by initializer name, node name and metadata key; ``graph`` is the one of :func:`graph_digest`."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    initializers: dict[str, str]
    nodes: dict[str, str]
    metadata: dict[str, str]
    graph: str


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


def content_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of everything in a model but its metadata, in hexadecimal digits."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]

"""The description that an exported file holds of itself: bits, tables, golden results, digests of all constants."""

from qkd_deploy.export.metadata.digests import (
    Digests,
    array_digest,
    constant_digest,
    content_digest,
    graph_digest,
    graph_digests,
    named_nodes,
    node_digest,
)
from qkd_deploy.export.metadata.entries import (
    read_decode_metadata,
    read_metadata,
    write_decode_metadata,
    write_metadata,
)
from qkd_deploy.export.metadata.golden import Golden, GoldenInput, GoldenOutput
from qkd_deploy.export.metadata.records import (
    DecodeMetadata,
    DecodeRecord,
    DecodesRecord,
    LayerRecord,
    Metadata,
    TensorRecord,
)
from qkd_deploy.gate.names import PREFIX

__all__ = [
    "PREFIX",
    "DecodeMetadata",
    "DecodeRecord",
    "DecodesRecord",
    "Digests",
    "Golden",
    "GoldenInput",
    "GoldenOutput",
    "LayerRecord",
    "Metadata",
    "TensorRecord",
    "array_digest",
    "constant_digest",
    "content_digest",
    "graph_digest",
    "graph_digests",
    "named_nodes",
    "node_digest",
    "read_decode_metadata",
    "read_metadata",
    "write_decode_metadata",
    "write_metadata",
]

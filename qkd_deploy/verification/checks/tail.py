"""The tail of a file: the operators in float behind its last integer kernels."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from qkd_deploy.export.information.readers import needed_by_quantizers
from qkd_deploy.verification.onnx_graph import OnnxGraph

_NEVER = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that are more than a tail, whatever a file says of itself."""


class Tail:
    """Says which operators belong to the tensors that a file names as its tail, and hand nothing on to integers."""

    def __init__(self, graph: OnnxGraph, tensors: Collection[str]) -> None:
        """Index the graph of an exported file; ``tensors`` are the names in its metadata."""
        self._tensors = frozenset(tensors)
        self._needed = needed_by_quantizers(graph.nodes)

    def holds(self, node: onnx.NodeProto) -> bool:
        """True for an exported node of the tail."""
        owner = node.name.rpartition("/")[0]
        return owner in self._tensors and node.op_type not in _NEVER and self._needed.isdisjoint(node.output)

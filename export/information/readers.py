"""Which values of an exported graph integers need."""

from __future__ import annotations

from collections.abc import Sequence

import onnx


def needed_by_quantizers(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names of the values that codes are made of, at once or later; ``nodes`` are in execution order."""
    needed: set[str] = set()
    for node in reversed(nodes):
        if node.op_type == "QuantizeLinear" or not needed.isdisjoint(node.output):
            needed.update(node.input)
    return needed

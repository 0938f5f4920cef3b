"""The facts of a traced graph's nodes as tables by name, for rules that do not read them from the nodes yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from qkd_deploy.graph.ir import Graph, Node


@dataclass
class ShapeRecorder:
    """Facts by the names of nodes.

    Attributes:
        shapes: ``Node.shape``, None for values that are no tensors.
        dtypes: ``Node.dtype`` of tensors.
        python: ``Node.value`` of nodes of kind "python".
        fixed: always empty: values that do not follow the batch are literals of the traced graph.
        unchanged: ``Node.unchanged``.
        smallest: ``Node.smallest`` of inputs.
        batch_dims: ``Node.batch_dims`` of tensors.
        lines: ``Node.line``.
    """

    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    python: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    unchanged: dict[str, bool] = field(default_factory=dict)
    smallest: dict[str, float] = field(default_factory=dict)
    batch_dims: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)


def recorder_of(graph: Graph) -> ShapeRecorder:
    """Write the facts of a traced graph into tables."""
    recorder = ShapeRecorder()
    for node in graph.nodes:
        _note(recorder, node)
    return recorder


def _note(recorder: ShapeRecorder, node: Node) -> None:
    recorder.shapes[node.name] = node.shape
    recorder.unchanged[node.name] = node.unchanged
    recorder.lines[node.name] = node.line
    if node.shape is not None:
        recorder.dtypes[node.name] = node.dtype
        recorder.batch_dims[node.name] = node.batch_dims
    if node.kind == "python":
        recorder.python[node.name] = node.value
    if node.smallest is not None:
        recorder.smallest[node.name] = node.smallest

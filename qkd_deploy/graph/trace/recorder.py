"""The facts of a traced graph's nodes as tables by name, for rules that do not read them from the nodes yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from qkd_deploy.graph.ir import Graph


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
    tensors = [node for node in graph.nodes if node.shape is not None]
    return ShapeRecorder(
        shapes={node.name: node.shape for node in graph.nodes},
        dtypes={node.name: node.dtype for node in tensors},
        python={node.name: node.value for node in graph.nodes if node.kind == "python"},
        unchanged={node.name: node.unchanged for node in graph.nodes},
        smallest={node.name: node.smallest for node in graph.nodes if node.smallest is not None},
        batch_dims={node.name: node.batch_dims for node in tensors},
        lines={node.name: node.line for node in graph.nodes},
    )

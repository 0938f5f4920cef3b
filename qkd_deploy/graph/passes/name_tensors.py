"""Tensors are called after the user's modules.

    labels  layer1.0.conv1, layer1.0.add, layer1.0.add   become   layer1.0.conv1, layer1.0.add, layer1.0.add_2

The names are those of the ONNX file, of reports, and of the steps in checkpoints.
"""

from __future__ import annotations

from collections import defaultdict

from qkd_deploy.graph.passes.context import PassContext


def name_tensors(context: PassContext) -> None:
    """Make the labels unique, and let them be the names."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = defaultdict(lambda: 1)
    for node in context.graph.nodes:
        name = node.label
        while name in taken:
            counts[node.label] += 1
            name = f"{node.label}_{counts[node.label]}"
        taken.add(name)
        names[node.name] = name
    context.graph.rename(names)

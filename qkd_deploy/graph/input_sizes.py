"""The sizes of inputs beside the batch: those that a graph was traced with, and those that are given to it."""

from __future__ import annotations

from typing import Any

from qkd_deploy.graph.ir import Graph, Node

Sizes = tuple[tuple[int, ...] | None, ...]
"""For every input its sizes without the batch, such as (3, 32, 32); None where nothing is known of them."""


def sizes_taken(graph: Graph) -> Sizes:
    """Return the sizes of the examples that a graph was traced with."""
    return tuple(_without_batch(graph.node(name), graph.node(name).shape) for name in graph.inputs)


def sizes_given(graph: Graph, inputs: tuple[Any, ...]) -> Sizes:
    """Return the sizes of inputs, which may be ready codes, by the batch dimensions of a graph."""
    return tuple(
        _without_batch(graph.node(name), _shape_of(value)) for name, value in zip(graph.inputs, inputs, strict=False)
    )


def fits(graph: Graph, inputs: tuple[Any, ...]) -> bool:
    """Tell whether inputs have the sizes that a graph was traced with."""
    pairs = zip(sizes_taken(graph), sizes_given(graph, inputs), strict=False)
    return all(taken is None or taken == given for taken, given in pairs)


def in_words(sizes: Sizes) -> str:
    """Write sizes for a message, as "3 x 32 x 32"."""
    return " and ".join(" x ".join(map(str, size)) if size else "unknown size" for size in sizes)


def _shape_of(value: Any) -> tuple[int, ...] | None:
    shape = getattr(getattr(value, "codes", value), "shape", None)  # of a tensor, or of a ``QuantizedTensor``
    return None if shape is None else tuple(shape)


def _without_batch(node: Node, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    batch_dims = node.batch_dims or (0,)
    return None if shape is None else tuple(size for dim, size in enumerate(shape) if dim not in batch_dims)

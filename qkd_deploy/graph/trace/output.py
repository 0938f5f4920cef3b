"""What a network returns, in any nesting: dictionaries, tuples, dataclasses and the output classes of libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from qkd_deploy.graph.ir import Ref, rebuilt


def output_structure(value: Any, node_of: Callable[[Any], Any]) -> tuple[Any, list[fx.Node]]:
    """A returned value with a ``Ref`` in place of every tensor, and the nodes that make them.

    Args:
        value: what ``forward`` returned while it was traced.
        node_of: gives the node of a Proxy or constant tensor.
    """
    nodes: dict[str, fx.Node] = {}

    def convert(part: Any) -> Any:
        if isinstance(part, (fx.Proxy, Tensor)):
            node = node_of(part)
            nodes[node.name] = node
            return Ref(node.name)
        return rebuilt(part, convert)

    structure = convert(value)
    return structure, list(nodes.values())

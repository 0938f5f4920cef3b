"""The one way to execute a graph: node after node, each value dropped after its last use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qkd_deploy.graph.input_sizes import fits, in_words, sizes_given, sizes_taken
from qkd_deploy.graph.ir import Graph, Node, Ref, substitute

RunNode = Callable[[Node, tuple[Any, ...], dict[str, Any]], Any]
"""Computes one node from the values of its arguments; an input node has the input as its only argument."""

Values = dict[str, Any]
"""The values that are still to be read, by the names of their nodes."""


def run(graph: Graph, inputs: tuple[Any, ...], run_node: RunNode, output: Any = None) -> Any:
    """Evaluate all nodes in order.

    Args:
        graph: the graph.
        inputs: of the network.
        run_node: computes a node.
        output: what to return of the graph's outputs, with ``Ref``s to them; None is the graph's own structure.

    Raises:
        TypeError, ValueError: as ``start``.
    """
    return resume(graph, start(graph, inputs), 0, run_node, output)


def start(graph: Graph, inputs: tuple[Any, ...]) -> Values:
    """The values before the first node: the inputs.

    Raises:
        TypeError: another number of inputs than the network has.
        ValueError: inputs of other sizes, for which sizes and positions in the graph would be wrong; models find or
            make the graph for them.
    """
    if len(inputs) != len(graph.inputs):
        raise TypeError(f"the network takes {len(graph.inputs)} inputs ({', '.join(graph.inputs)}), got {len(inputs)}")
    if not fits(graph, inputs):
        taken, given = in_words(sizes_taken(graph)), in_words(sizes_given(graph, inputs))
        raise ValueError(f"the graph takes inputs of {taken}, got {given}")
    return dict(zip(graph.inputs, inputs, strict=True))


def step(graph: Graph, values: Values, node: Node, run_node: RunNode) -> None:
    """Evaluate the next node into ``values``, and forget what nobody reads behind it."""

    def value(ref: Ref) -> Any:
        return values[ref.name]

    args, kwargs = substitute((node.args, node.kwargs), value)
    values[node.name] = run_node(node, (values[node.name],) if node.kind == "input" else args, kwargs)
    for name in graph.last_uses()[node.name]:
        del values[name]


def resume(graph: Graph, values: Values, place: int, run_node: RunNode, output: Any = None) -> Any:
    """Evaluate the nodes from ``place`` on, given the values that the nodes before it left; returns the output."""
    for node in graph.nodes[place:]:
        step(graph, values, node, run_node)
    return substitute(graph.output if output is None else output, lambda ref: values[ref.name])

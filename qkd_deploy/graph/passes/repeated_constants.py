"""Constants that are repeated for every image, such as masks of windows, which are part of the batch: once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.interpreter import run
from qkd_deploy.graph.ir import Graph, Node, Ref, substitute
from qkd_deploy.graph.ops import apply
from qkd_deploy.graph.ops.constants import CONSTANT, INPUT, SCALAR
from qkd_deploy.graph.ops.copying import EXPAND
from qkd_deploy.graph.ops.movement import RESHAPE

_SIZES_OF_ONE = {EXPAND.name: 1, RESHAPE.name: -1}
"""What the number of images is for a single one, in the kinds that may be told it."""


def once_an_image(network: nn.Module, graph: Graph, name: str) -> str | None:
    """Insert the steps to a tensor that repeats something for every image anew, for a single image.

    Both are tried out with other numbers in place of parameters, so that nothing is equal by chance.

    Args:
        network: holds the parameters.
        graph: gets copies of the steps that are told the number of images.
        name: of a tensor whose first dimension follows the batch.

    Returns:
        the name of the tensor of one image; None where an input has a part in it, or where images differ.
    """
    steps = _steps(graph, name)
    told = _told_the_batch(graph, steps)
    if any(node.kind == INPUT.name or node.clip is not None for node in steps) or name not in told:
        return None
    whole = [_with_sizes(graph, node, lambda reader, size: size.value) for node in steps]
    single = [_with_sizes(graph, node, lambda reader, size: _SIZES_OF_ONE.get(reader.kind)) for node in steps]
    try:
        repeated, made = _values(network, whole)[name], _values(network, single)
    except (RuntimeError, TypeError):  # sizes of several images go into something else
        return None
    times, rest = divmod(len(repeated), max(1, len(made[name])))
    if rest or repeated.shape != (times * len(made[name]), *made[name].shape[1:]):
        return None
    if not torch.equal(repeated, torch.cat([made[name]] * times)):
        return None
    return _insert(graph, [node for node in single if node.name in told], made)[name]


def _steps(graph: Graph, name: str) -> list[Node]:
    """The nodes that a tensor is made of, but for those that only compute sizes."""
    needed = {name}
    found = []
    for node in reversed(graph.nodes):
        if node.name in needed and node.kind != SCALAR.name:
            needed.update(node.inputs)
            found.append(node)
    return found[::-1]


def _told_the_batch(graph: Graph, steps: Sequence[Node]) -> set[str]:
    """The names of the steps that depend on the number of images."""
    told: set[str] = set()
    for node in steps:
        if any(other in told or graph.node(other).kind == SCALAR.name for other in node.inputs):
            told.add(node.name)
    return told


def _with_sizes(graph: Graph, node: Node, size: Callable[[Node, Node], Any]) -> Node:
    """Copy a node with numbers in place of the sizes that it is told: what ``size`` says of both nodes."""

    def number(ref: Ref) -> Any:
        told = graph.node(ref.name)
        return size(node, told) if told.kind == SCALAR.name else ref

    args, kwargs = substitute((node.args, node.kwargs), number)
    return replace(node, args=args, kwargs=kwargs)


def _values(network: nn.Module, steps: Sequence[Node]) -> dict[str, Tensor]:
    """Compute steps with other numbers in place of parameters."""
    found: dict[str, Tensor] = {}
    numbers = torch.Generator().manual_seed(0)

    def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = apply(network, node, args, kwargs, training=False)
        if node.kind == CONSTANT.name and isinstance(value, nn.Parameter):
            value = torch.rand(value.shape, generator=numbers)
        return found.setdefault(node.name, value)

    with torch.no_grad():
        run(Graph(steps, [], Ref(steps[-1].name)), (), run_node)
    return found


def _insert(graph: Graph, steps: Sequence[Node], made: dict[str, Tensor]) -> dict[str, str]:
    """Add steps to a graph, each behind the node that it is a copy of; returns their names by those."""
    names: dict[str, str] = {}
    for step in steps:
        original = graph.node(step.name)
        args, kwargs = substitute((step.args, step.kwargs), lambda ref: Ref(names.get(ref.name, ref.name)))
        label = f"{original.label}.once"
        names[step.name] = graph.unused_name(label)
        copy = replace(step, name=names[step.name], args=args, kwargs=kwargs, label=label)
        copy.shape, copy.batch_dims = tuple(made[step.name].shape), ()
        graph.insert_after(original, copy)
    return names

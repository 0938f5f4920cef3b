"""Invariants of a graph after each stage of ``prepare``, as data.

Tests check it after every stage; with the environment variable ``QKD_DEPLOY_CHECK_GRAPHS=1`` every ``prepare`` does.
What fails is a mistake of the stage that ran last, never of the user's network.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import OPERATORS, operator_of

VARIABLE = "QKD_DEPLOY_CHECK_GRAPHS"


class BrokenGraph(Exception):
    """A stage left a graph that cannot be right; names the stage, what should hold, and where it does not."""


@dataclass(frozen=True)
class Invariant:
    """A sentence that is true from a stage on, and the names of the nodes of which it is not."""

    since: str
    sentence: str
    exceptions: Callable[[Graph], Iterator[str]]


def check(graph: Graph, stages: Collection[str]) -> None:
    """Check what holds after the stages that a graph has been through, the last of them just now.

    Raises:
        BrokenGraph: something does not.
    """
    for invariant in INVARIANTS:
        if invariant.since in stages and (found := list(invariant.exceptions(graph))):
            raise BrokenGraph(f"after {[*stages][-1]}, not true of {', '.join(found)}: {invariant.sentence}\n{graph}")


class StageLog:
    """The stages that a graph has been through; checks it after each of them where that is asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._stages = graph, list[str]()
        self._checked = os.environ.get(VARIABLE) == "1"

    def done(self, stage: str) -> None:
        """Note that a stage has run.

        Raises:
            BrokenGraph: checks are asked for, and what should hold after it does not.
        """
        self._stages.append(stage)
        if self._checked:
            check(self._graph, self._stages)


# -- of every graph ----------------------------------------------------------------------------------------------------


def _names_used_twice(graph: Graph) -> Iterator[str]:
    counts = Counter(node.name for node in graph.nodes)
    return (name for name, count in counts.items() if count > 1)


def _reads_ahead(graph: Graph) -> Iterator[str]:
    made: set[str] = set()
    for node in graph.nodes:
        if not made.issuperset(node.inputs):
            yield node.name
        made.add(node.name)


def _unknown_outputs(graph: Graph) -> Iterator[str]:
    made = {node.name for node in graph.nodes}
    return (name for name in graph.outputs() if name not in made)


def _inputs_elsewhere(graph: Graph) -> Iterator[str]:
    made = [node.name for node in graph.nodes if node.kind == "input"]
    return iter(graph.inputs if graph.inputs != made else ())


def _readers_unknown(graph: Graph) -> Iterator[str]:
    """Nodes whose arguments were changed inside, so that the index of readers missed it."""
    users = {node.name: set(graph.users(node.name)) for node in graph.nodes}
    known = Counter(reader.name for readers in users.values() for reader in readers)
    for node in graph.nodes:
        read = set(node.inputs)
        if known[node.name] != len(read) or any(node not in users[name] for name in read):
            yield node.name


# -- of the stages -----------------------------------------------------------------------------------------------------


def _each(wrong: Callable[[Node], bool]) -> Callable[[Graph], Iterator[str]]:
    return lambda graph: (node.name for node in graph.nodes if wrong(node))


def _shapeless(node: Node) -> bool:
    return node.shape is None and operator_of(node).own_scale


def _clip_without_zero(node: Node) -> bool:
    return node.clip is not None and not node.clip[0] <= 0 <= node.clip[1]


def _lone_batch_norm(node: Node) -> bool:
    return node.kind == "batch_norm" and len(node.sizes) in (2, 3, 4)


def _open_to_a_clip(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        user = graph.only_user(node.name)
        if operator_of(node).absorbs_clip and user is not None and user.kind == "clip":
            yield node.name


def _equal_slices(graph: Graph) -> Iterator[str]:
    slices = Counter((node.inputs[0], node.kwargs["ranges"]) for node in graph.nodes if node.kind == "slice")
    return (name for (name, _), count in slices.items() if count > 1)


def _named_otherwise(node: Node) -> bool:
    return not node.name.startswith(node.label)


def _mean_without_weights(graph: Graph) -> Iterator[str]:
    exponentials = {node.name for node in graph.nodes if node.kind == "exponential"}
    means = [node for node in graph.nodes if node.kind == "weighted_mean"]
    return (node.name for node in means if len(node.inputs) != 3 or not exponentials)


def _moved_elsewhere(node: Node) -> bool:
    return not node.is_layer and (node.gain is not None or node.offset is not None)


def _shared_quantizers(graph: Graph) -> Iterator[str]:
    counts = Counter(node.quantizer for node in graph.nodes if node.quantizer is not None)
    return (key for key, count in counts.items() if count > 1)


def _sourceless(graph: Graph) -> Iterator[str]:
    """Layers that read codes without knowing whose."""
    on_codes: set[str] = set()
    for node in graph.nodes:
        moves_codes = operator_of(node).moves_codes and node.inputs[0] in on_codes
        if node.quantizer is not None or moves_codes:
            on_codes.add(node.name)
        if node.is_layer and (node.inputs[0] in on_codes) != (node.source is not None):
            yield node.name


def _unknown_source(graph: Graph) -> Iterator[str]:
    keys = {node.quantizer for node in graph.nodes}
    keys |= {module_key(node.name) for node in graph.nodes if node.kind == "rescale"}
    return (node.name for node in graph.nodes if node.source is not None and node.source not in keys)


INVARIANTS = (
    Invariant("trace", "no two nodes have the same name", _names_used_twice),
    Invariant("trace", "a node reads what nodes before it make", _reads_ahead),
    Invariant("trace", "the output consists of what nodes make", _unknown_outputs),
    Invariant("trace", "the inputs are the nodes of kind input, in order", _inputs_elsewhere),
    Invariant("trace", "the graph knows who reads what", _readers_unknown),
    Invariant("lower", "every kind is a row of the table of operators", _each(lambda n: n.kind not in OPERATORS)),
    Invariant("lower", "what has a grid of its own is a tensor", _each(_shapeless)),
    Invariant("lower", "zero lies in the range of every clip", _each(_clip_without_zero)),
    Invariant("fold_batch_norms", "only layers own a batch norm", _each(lambda n: bool(n.batch_norm) > n.is_layer)),
    Invariant("fold_channel_constants", "only layers own constants", _each(lambda n: bool(n.affine) > n.is_layer)),
    Invariant("batch_norms_as_depthwise", "every batch norm is part of a layer", _each(_lone_batch_norm)),
    Invariant("fuse_clips", "no clip stands alone behind what absorbs it", _open_to_a_clip),
    Invariant("hoist_slices", "no tensor has two equal slices", _equal_slices),
    Invariant("name_tensors", "a name begins with its label", _each(_named_otherwise)),
    Invariant("softmax_as_exponentials", "a weighted mean reads weights, values and weights", _mean_without_weights),
    Invariant("fold_layer_norms", "only layers take gains and offsets", _each(_moved_elsewhere)),
    Invariant("place", "every quantizer has one node", _shared_quantizers),
    Invariant("place", "a layer that reads codes, and no other, knows their source", _sourceless),
    Invariant("place", "every source is the key of a quantizer or of a rescaled tensor", _unknown_source),
)
"""Later stages keep what earlier ones established."""

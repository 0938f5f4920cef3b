"""The cut between the integer network and a float tail that decodes: anchors, distributions over bins, boxes.

A detector's head ends in convolutions; what stands behind them makes boxes in pixels of their maps. That tail is no
part of the integer network: it may run elsewhere, in float, as a file of its own (decision 39). The cut lies directly
behind the last integer kernels, so that the integer part gives the maps of the convolutions, dequantized.

A tail is cut off where it decodes: where it takes the mean of a distribution over bins, or computes with constants that
hold numbers along two dimensions or more, such as anchors. Softmax, sigmoid, upsampling and numbers by class are no
such tail, and stay where they are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qkd_deploy.graph.contract.operator import Operands
from qkd_deploy.graph.input_sizes import Sizes, sizes_given
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Graph, Node, Ref, substitute
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.constants import CONSTANT, INPUT, SCALAR
from qkd_deploy.graph.ops.normalization import EXPECTATION
from qkd_deploy.graph.placement.tail import has_weights, reads_floats, without_integer_readers

_KEPT = 16
"""Models of other sizes that are kept, the latest ones."""
_GIVEN = (INPUT.name, CONSTANT.name)


@dataclass(frozen=True)
class Cut:
    """Where a network is cut in two.

    Attributes:
        tensors: what the integer part hands over, in graph order: operands of the tail, and outputs of the network that
            are none of it.
        behind: the tensors behind it, in graph order.
        computed: those of them that are more than elements in another place.
    """

    tensors: tuple[str, ...]
    behind: tuple[str, ...]
    computed: tuple[str, ...]


def find_cut(frozen: FrozenModel) -> Cut | None:
    """Find the cut in front of the tail that decodes; None where there is no such tail."""
    graph, constants = frozen.graph, frozen.graph.constants()
    behind = _behind(frozen.network, graph, constants)
    if not any(_decodes(graph, graph.node(name), constants) for name in behind):
        return None
    nodes = [node for node in graph.nodes if node.name in behind and node.kind != SCALAR.name]
    handed = {*graph.outputs(), *(name for node in nodes for name in node.inputs)} - behind - constants
    tensors = [node for node in graph.nodes if node.name in handed and node.kind != SCALAR.name]
    if not all(_has_batch_first(graph, node) for node in tensors):
        return None
    computed = (node for node in nodes if node.tail or operator_of(node).operands is Operands.FLOATS)
    return Cut(*(tuple(node.name for node in part) for part in (tensors, nodes, computed)))


def front_of(frozen: FrozenModel) -> FrozenModel:
    """The integer part of a model, which returns the tensors at the cut by name; where there is none, the model."""
    cut = find_cut(frozen)
    if cut is None:
        return frozen
    front = copy.copy(frozen)  # shares all modules
    front.graph = copy.deepcopy(frozen.graph)
    front.graph.output = {handed_name(frozen.graph, name): Ref(name) for name in cut.tensors}
    front.graph.remove_unneeded()
    front.by_size = None if frozen.by_size is None else _FrontBySize(frozen)
    return front


def behind_of(frozen: FrozenModel, cut: Cut) -> FrozenModel:
    """The tail of a model, as a graph whose inputs are the tensors at the cut; it is written, but does not run.

    Numbers that Python computed, such as the batch, are those of the examples in it.
    """
    given, graph = frozen.graph, Graph([], [], None)
    names = {name: handed_name(given, name) for name in cut.tensors}
    for name in cut.tensors:
        graph.append(_as_input(given.node(name), names[name]))
    graph.inputs = list(names.values())
    wanted = {*cut.behind, *_constants_of(given, cut)}
    for node in given.nodes:
        if node.name in wanted:
            graph.append(_copy(given, node, names))
    graph.output = substitute(given.output, lambda ref: Ref(names.get(ref.name, ref.name)))
    behind = copy.copy(frozen)
    behind.graph, behind.by_size = graph, None
    return behind


def handed_name(graph: Graph, tensor: str) -> str:
    """What a tensor at the cut is called in both files: an input of the network cannot be an output of that name."""
    return f"{tensor}.given" if tensor in graph.inputs else tensor


@dataclass
class _FrontBySize:
    """The integer part for inputs of other sizes.

    Attributes:
        whole: the model that was cut.
        known: parts that were made, by sizes.
    """

    whole: FrozenModel
    known: dict[Sizes, FrozenModel] = field(default_factory=dict)

    def __call__(self, front: FrozenModel, inputs: tuple[Any, ...]) -> FrozenModel:
        """Give ``front`` for the sizes of inputs."""
        sizes = sizes_given(front.graph, inputs)
        if sizes not in self.known:
            self.known[sizes] = front_of(self.whole.at(inputs))
            for old in list(self.known)[:-_KEPT]:
                del self.known[old]
        return self.known[sizes]


# -- the tail ----------------------------------------------------------------------------------------------------------


def _behind(network: nn.Module, graph: Graph, constants: set[str]) -> set[str]:
    """Tensors behind the last integer kernels that float operations make, and that nothing else reads."""
    tail = {node.name for node in graph.nodes if node.tail}
    unread = without_integer_readers(network, graph, tail)
    found = {node.name for node in graph.nodes if node.name in unread - constants and _is_float(network, node, tail)}
    while True:
        kept = {name for name in found if _is_closed(graph, graph.node(name), found, constants)}
        if kept == found:
            return found
        found = kept


def _is_float(network: nn.Module, node: Node, tail: set[str]) -> bool:
    if node.kind == SCALAR.name:
        return True
    made = node.quantizer is None and not node.is_layer and node.kind not in _GIVEN
    return made and reads_floats(node, tail) and not has_weights(network, node)


def _is_closed(graph: Graph, node: Node, found: set[str], constants: set[str]) -> bool:
    """True where only the tail reads a tensor, and what it is made of can be handed over."""
    if any(reader.name not in found for reader in graph.users(node.name)):
        return False
    if node.kind == SCALAR.name:
        return True
    operands = (graph.node(name) for name in node.inputs if name not in found | constants)
    return all(operand.kind == SCALAR.name or _has_batch_first(graph, operand) for operand in operands)


def _has_batch_first(graph: Graph, node: Node) -> bool:
    """True for tensors of as many rows as the batch: only those can be inputs of a file."""
    return node.shape is not None and node.batch_dims == (0,) and node.sizes[0] == graph.batch_size


def _decodes(graph: Graph, node: Node, constants: set[str]) -> bool:
    """True for the mean of a distribution over bins, and for what computes with numbers by place, such as anchors."""
    if node.kind == EXPECTATION.name:
        return True
    if operator_of(node).moves_codes and not node.tail:
        return False
    known = (graph.node(name).sizes for name in node.inputs if name in constants)
    return any(sum(size > 1 for size in sizes) > 1 for sizes in known)


# -- its graph ---------------------------------------------------------------------------------------------------------


def _as_input(node: Node, name: str) -> Node:
    """An input in place of the tensor that a node makes; whole numbers stay whole numbers."""
    span = None if node.dtype.is_floating_point else (0, 1)
    facts: dict[str, Any] = {"shape": node.shape, "batch_dims": node.batch_dims, "dtype": node.dtype, "span": span}
    return Node(name, INPUT.name, label=name, module=node.module, **facts)


def _constants_of(graph: Graph, cut: Cut) -> set[str]:
    """The constants that a tail is computed with, and what they are made of; those that the network returns, too."""
    constants = graph.constants()
    needed = {*cut.behind, *graph.outputs()}
    for node in reversed(graph.nodes):
        if node.name in needed and (node.name in constants or node.name in cut.behind):
            needed.update(node.inputs)
    return needed & constants


def _copy(graph: Graph, node: Node, names: dict[str, str]) -> Node:
    """A node of its own, which reads inputs in place of tensors at the cut, and numbers in place of scalars."""

    def renamed(ref: Ref) -> Any:
        source = graph.node(ref.name)
        return source.value if source.kind == SCALAR.name else Ref(names.get(ref.name, ref.name))

    made = copy.copy(node)
    made.on_new_arguments = None
    made.args, made.kwargs = substitute((node.args, node.kwargs), renamed)
    return made

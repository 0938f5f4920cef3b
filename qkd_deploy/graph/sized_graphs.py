"""The graphs of one model at other sizes of its inputs than those of its examples.

A network's code may do anything with sizes: halve them, loop over them, choose another path by them. So a graph holds
for the sizes that it was traced with, and for others the network is traced, rewritten and placed again. The result is
used where it is the same network in other sizes: the same operations with the same quantizers, of which only sizes,
positions and constants that are made of them differ. Anything else is refused with the operation's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.contract.evaluation import attribute_at
from qkd_deploy.graph.input_sizes import Sizes, in_words, sizes_given, sizes_taken
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops.constants import CONSTANT
from qkd_deploy.graph.passes.constant_values import values_of_layer
from qkd_deploy.graph.placement.place import Placed

_KEPT = 64
"""Graphs that are kept, the latest ones."""

_SAME = (
    *("name", "kind", "quantizer", "source", "clip", "batch_norm", "affine", "gain", "offset", "module", "method"),
    *("dtype", "batch_dims", "partial", "tail", "inputs"),
)
"""What a node has at every size; targets are compared apart."""


@dataclass(frozen=True)
class Sized:
    """A graph for some sizes.

    Attributes:
        graph: placed, with the keys of quantizers that the model has.
        rescaled: as in ``Placed``, for these sizes.
        constants: buffers that the graph reads and a network does not have yet, by name.
    """

    graph: Graph
    rescaled: dict[str, tuple[str, float]]
    constants: dict[str, Tensor]


PlaceAgain = Callable[[tuple[Tensor, ...]], tuple[nn.Module, set[str], Placed]]
"""Prepares the network for other inputs: gives a copy of it with the constants made on the way, the paths of all
parameters and buffers that are the user's own, and the graph with its quantizers."""


@dataclass
class SizedGraphs:
    """Makes and keeps the graphs of one model.

    Attributes:
        placed: for the sizes of the examples.
        place_again: prepares the network for inputs of other sizes.
        known: graphs that were made, by sizes; copies of a model share them.
    """

    placed: Placed
    place_again: PlaceAgain
    known: dict[Sizes, Sized] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> SizedGraphs:
        """Nothing here ever changes but for new graphs, which are good for copies of a model, too."""
        return self

    @torch.no_grad()
    def at(self, network: nn.Module, inputs: tuple[Any, ...]) -> Sized:
        """Find the graph for the sizes of inputs.

        Args:
            network: the model's, on its device; gets constants that differ at these sizes, outside its state.
            inputs: a batch.

        Raises:
            UserError: the network does not run at these sizes, or would be computed otherwise; names the operation.
        """
        sizes = sizes_given(self.placed.graph, inputs)
        if sizes not in self.known:
            self.known[sizes] = self._made(network, inputs, sizes)
            for old in list(self.known)[:-_KEPT]:
                del self.known[old]
        sized = self.known[sizes]
        for name, value in sized.constants.items():
            if not hasattr(network, name):
                network.register_buffer(name, value.to(_device_of(network)), persistent=False)
        return sized

    def _made(self, network: nn.Module, inputs: tuple[Any, ...], sizes: Sizes) -> Sized:
        own = in_words(sizes_taken(self.placed.graph))
        examples = tuple(_examples(value) for value in inputs)
        try:
            copy, users, placed = self.place_again(examples)
        except UserError as error:
            raise UserError(
                f"the model was prepared with inputs of {own} and does not take {in_words(sizes)}: {error}; give it "
                f"inputs of {own}"
            ) from error
        _require_same(self.placed, placed, own, in_words(sizes))
        for node in placed.graph.nodes:
            if node.is_layer and not _reads_same(network, copy, users, node):
                raise _otherwise(node, own, in_words(sizes))
        suffix = "x".join(map(str, sum(filter(None, sizes), ())))
        constants = _own_constants(network, copy, users, placed.graph, suffix)
        return Sized(placed.graph, placed.rescaled, constants)


def _examples(value: Any) -> Any:
    """One example is enough, as everything runs on twice as many, too."""
    return value[:1].detach().cpu() if isinstance(value, Tensor) else value


def _device_of(network: nn.Module) -> torch.device:
    tensors = (*network.parameters(), *network.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


# -- the same network --------------------------------------------------------------------------------------------------


def _require_same(one: Placed, two: Placed, own: str, other: str) -> None:
    """Refuse a graph with other operations or quantizers.

    Raises:
        UserError: names the first operation that differs.
    """
    node = next(_differing(one, two), None)
    if node is not None:
        raise _otherwise(node, own, other)


def _otherwise(node: Node, own: str, other: str) -> UserError:
    line = f" at {node.line}" if node.line else ""
    return UserError(
        f"{node.label or node.name}{line} is computed in another way for inputs of {other} than for those of "
        f"{own}, which the model was prepared with; prepare it with an example of {other}, or give it inputs of "
        f"{own}"
    )


def _differing(one: Placed, two: Placed) -> Iterator[Node]:
    known = {node.name for node in one.graph.nodes}
    for a, b in zip(one.graph.nodes, two.graph.nodes, strict=False):
        if not _is_same(a, b) or _bits(one, a) != _bits(two, b):
            yield a if b.name in known else b
    yield from one.graph.nodes[len(two.graph.nodes) :]
    yield from two.graph.nodes[len(one.graph.nodes) :]
    if one.graph.output != two.graph.output:
        yield one.graph.nodes[-1]


def _is_same(one: Node, two: Node) -> bool:
    ranks = len(one.sizes) == len(two.sizes)
    return ranks and one.target == two.target and all(getattr(one, fact) == getattr(two, fact) for fact in _SAME)


def _bits(placed: Placed, node: Node) -> Any:
    """The grid of a node's codes, and the bits of a layer."""
    grid = None if node.quantizer is None else placed.activations[node.quantizer]
    return grid, placed.layer_bits.get(node.name)


# -- constants ---------------------------------------------------------------------------------------------------------


def _reads_same(network: nn.Module, copy: nn.Module, users: set[str], layer: Node) -> bool:
    """Tell whether the computed weights and constants of a layer are made by the same steps from the same tensors."""
    for one, two in zip(values_of_layer(network, layer), values_of_layer(copy, layer), strict=True):
        paths = {str(node.target) for node in one.graph.nodes if node.kind == CONSTANT.name} - users
        if str(one.graph) != str(two.graph) or any(_differs(network, copy, path) for path in paths):
            return False
    return True


def _differs(network: nn.Module, copy: nn.Module, path: str) -> bool:
    made, held = attribute_at(copy, path), attribute_at(network, path)
    return bool(made.shape != held.shape or not torch.equal(made, held.cpu()))


def _own_constants(
    network: nn.Module, copy: nn.Module, users: set[str], graph: Graph, suffix: str
) -> dict[str, Tensor]:
    """Let ``graph`` read constants of other names where tracing and lowering made other values than ``network`` has."""
    found: dict[str, Tensor] = {}
    for node in graph.nodes:
        path = str(node.target)
        if node.kind != CONSTANT.name or path in users:
            continue
        if _differs(network, copy, path):
            node.target = f"{path.replace('.', '_')}_at_{suffix}"
            found[node.target] = attribute_at(copy, path)
    return found

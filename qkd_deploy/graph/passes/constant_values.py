"""Tensors that no input has a part in, computed from the network's parameters whenever they are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.contract.borrowed_layers import BorrowingLayer
from qkd_deploy.graph.contract.evaluation import attribute_at
from qkd_deploy.graph.interpreter import run
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.ops import apply
from qkd_deploy.graph.ops.constants import CONSTANT
from qkd_deploy.graph.ops.layers import affine_of, layer_of


@dataclass(eq=False)
class ConstantValue:
    """One such tensor.

    Attributes:
        network: holds the parameters.
        graph: the steps from them to the tensor.
    """

    network: nn.Module
    graph: Graph

    def __eq__(self, other: object) -> bool:
        """Tell whether another one is computed from the same tensors by the same steps."""
        if not isinstance(other, ConstantValue):
            return False
        return self.network is other.network and str(self.graph) == str(other.graph)

    def read(self) -> Tensor:
        """Compute the tensor from the parameters as they are, with their gradients.

        Where nobody asks for gradients, modules that go on estimating in training (spectral norm) are only looked at.
        """
        called = [] if torch.is_grad_enabled() else self._called()
        with evaluating(*called):
            result: Tensor = run(self.graph, (), self._run)
        return result

    def _called(self) -> list[nn.Module]:
        paths = [node.target for node in self.graph.nodes if _calls_module(node)]
        return [self.network.get_submodule(str(path)) for path in paths]

    def _run(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _clipped(node, apply(self.network, node, args, kwargs, training=False))

    @torch.no_grad()
    def exact(self) -> Tensor:
        """Compute the tensor of evaluation mode in float64: rounded to float32 or to codes, all machines agree on it.

        Code of the user's that mixes in float32 tensors of its own where PyTorch does not convert them runs in float32.
        """
        try:
            made: Tensor = run(self.graph, (), self._run_in_double)
        except RuntimeError:
            made = self.read()
        return made.double()

    def _run_in_double(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.kind == CONSTANT.name:
            value = attribute_at(self.network, str(node.target))
            return value.double() if value.is_floating_point() else value
        if _calls_module(node):
            module = copy.deepcopy(self.network.get_submodule(str(node.target))).double().eval()
            return _clipped(node, module(*args, **kwargs))
        return self._run(node, args, kwargs)


def values_of_layer(network: nn.Module, layer: Node) -> list[ConstantValue]:
    """Find the computed tensors that a layer reads: as its weight and bias, and behind it."""
    module, affine = layer_of(network, layer), affine_of(network, layer)
    found = [*module.sources] if isinstance(module, BorrowingLayer) else []
    found += [] if affine is None else [value for _, value in affine.steps]
    return [value for value in found if isinstance(value, ConstantValue)]


def _calls_module(node: Node) -> bool:
    return isinstance(node.target, str) and not node.method and node.kind != CONSTANT.name


def _clipped(node: Node, value: Any) -> Any:
    return value if node.clip is None else value.clamp(*node.clip)


def constant_value(network: nn.Module, graph: Graph, name: str) -> ConstantValue:
    """Copy the steps to a tensor out of a graph, so that they can be computed apart from it.

    Equal steps give equal graphs: names are numbers.

    Args:
        network: holds the parameters.
        graph: not changed.
        name: of a tensor in ``graph.constants()``.
    """
    needed = _ancestors(graph, name)
    steps = Graph([replace(node, line="") for node in needed], [], Ref(name))
    numbers = {node.name: f"step_{i}" for i, node in enumerate(needed)}
    steps.rename(numbers)
    for node in steps.nodes:
        node.label = node.name
    return ConstantValue(network, steps)


def _ancestors(graph: Graph, name: str) -> Sequence[Node]:
    """The nodes that a tensor is made of, its own last."""
    needed = {name}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return [node for node in graph.nodes if node.name in needed]

"""The network before it was quantized, computed on the graph of its prepared form: what calibration compares with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from qkd_deploy.graph.interpreter import start, step
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import apply
from qkd_deploy.graph.ops.layers import layer_in_float
from qkd_deploy.graph.prepared import PreparedModel

RunBeside = Callable[[Node, tuple[Any, ...], dict[str, Any], Tensor | None], Any]
"""Computes a node of the quantized network; the last argument is a layer's float output before its clip."""


class FloatReference:
    """A copy of a prepared model's network in evaluation mode, which later changes to the model do not reach."""

    def __init__(self, prepared: PreparedModel) -> None:
        """Copy the network as it is now."""
        self._model = copy.deepcopy(prepared).eval()

    def run(self, inputs: tuple[Any, ...], observe: Callable[[Node, Tensor, Tensor], None]) -> None:
        """Run the network, and show ``observe`` every layer, what it reads and what it gives before its clip."""
        graph = self._model.at(inputs).graph
        values = start(graph, inputs)

        def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value, unclipped = self._node(node, args, kwargs)
            if unclipped is not None:
                observe(node, args[0], unclipped)
            return value

        for node in graph.nodes:
            step(graph, values, node, run_node)

    def run_beside(self, inputs: tuple[Any, ...], run_node: RunBeside) -> None:
        """Run both networks, node by node in turns; ``run_node`` computes those of the quantized one."""
        graph = self._model.at(inputs).graph
        floats, quantized = start(graph, inputs), start(graph, inputs)
        unclipped: Tensor | None = None

        def run_float(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal unclipped
            value, unclipped = self._node(node, args, kwargs)
            return value

        def run_quantized(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return run_node(node, args, kwargs, unclipped)

        for node in graph.nodes:
            step(graph, floats, node, run_float)
            step(graph, quantized, node, run_quantized)

    def _node(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Tensor | None]:
        """The value of a node, and, of a layer, what it was before its clip."""
        network = self._model.network
        unclipped = layer_in_float(network, node, args[0]) if node.is_layer else None
        value: Any = apply(network, node, args, kwargs, training=False) if unclipped is None else unclipped
        return (value if node.clip is None else value.clamp(*node.clip)), unclipped

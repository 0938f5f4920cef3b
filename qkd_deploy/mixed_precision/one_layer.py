"""Run a network in full precision, in which one layer at a time is quantized."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from qkd_deploy.bits import BitWidths, TensorSpec
from qkd_deploy.export.onnx_export import flat_tensors
from qkd_deploy.graph.interpreter import RunNode, resume, run, start, step
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import apply
from qkd_deploy.graph.ops.layers import layer_forward, layer_parameters, with_folded
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.costs import weight_layers, weight_of
from qkd_deploy.quantizers.observer import HistogramObserver
from qkd_deploy.quantizers.scale_search import initial_scale, scale_from
from qkd_deploy.quantizers.step import fake_quantize

_METHOD = "mse"

Chosen = tuple[str, BitWidths]
"""The module that is quantized, and its bits."""


class SingleLayers:
    """Run the graph of a prepared model, in evaluation mode, without its quantizers but for those of one layer.

    Call ``observe`` with some batches before ``variants``: the scales of the layers' inputs come from them.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        """Take graph and modules of ``prepared``; its scales are not used."""
        self._prepared = prepared
        self._layers = weight_layers(prepared)
        self._first_calls = {nodes[0].name: module for module, nodes in self._layers.items()}
        self._observers: dict[str, HistogramObserver] = {}  # of the tensors that layers read
        self._scales: dict[tuple[str, TensorSpec], float] = {}

    def outputs(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        """Compute the network's outputs in full precision, flattened."""
        return flat_tensors(run(self._prepared.at(inputs).graph, inputs, self._rounding(None)))

    def observe(self, inputs: tuple[Any, ...]) -> None:
        """Observe the tensors that layers read, on one batch."""
        seen: set[str] = set()

        def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if node.is_layer and str(node.target) in self._layers and node.inputs[0] not in seen:
                seen.add(node.inputs[0])
                observer = self._observers.setdefault(node.inputs[0], HistogramObserver(signed=self._signed(node)))
                observer.update(args[0])
            return self._evaluate(node, args, kwargs, None)

        run(self._prepared.at(inputs).graph, inputs, run_node)

    def variants(
        self, inputs: tuple[Any, ...], widths: list[BitWidths]
    ) -> Iterator[tuple[str, BitWidths, list[Tensor]]]:
        """Yield for every module and width: module, bits, and the outputs where that module alone is quantized."""
        graph = self._prepared.at(inputs).graph
        values = start(graph, inputs)
        for place, node in enumerate(graph.nodes):
            module = self._first_calls.get(node.name)
            if module is not None:
                for bits in widths:
                    yield module, bits, flat_tensors(resume(graph, {**values}, place, self._rounding((module, bits))))
            step(graph, values, node, self._rounding(None))

    # -- running one node --------------------------------------------------------------------------------------------

    def _rounding(self, chosen: Chosen | None) -> RunNode:
        """Runs nodes in full precision but for the chosen module."""
        return lambda node, args, kwargs: self._evaluate(node, args, kwargs, chosen)

    def _evaluate(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], chosen: Chosen | None) -> Any:
        if node.is_layer:
            value = self._layer(node, args[0], chosen)
        else:
            value = apply(self._prepared.network, node, args, kwargs, training=False)
        return value if node.clip is None else value.clamp(*node.clip)

    def _layer(self, node: Node, x: Tensor, chosen: Chosen | None) -> Tensor:
        layer: Any = self._prepared.network.get_submodule(str(node.target))
        weight = weight_of(self._prepared, node)
        if chosen is not None and chosen[0] == node.target:
            x, weight = self._rounded_input(node, x, chosen[1]), self._rounded_weight(node, weight, chosen[1])
        _, bias = layer_parameters(self._prepared.network, node)
        return with_folded(self._prepared.network, node, layer_forward(layer, x, weight, bias))

    # -- rounding ----------------------------------------------------------------------------------------------------

    def _rounded_weight(self, node: Node, weight: Tensor, bits: BitWidths) -> Tensor:
        spec = self._prepared.weight_spec(node, bits.weight)
        key = str(node.target), spec
        if key not in self._scales:
            self._scales[key] = initial_scale(weight, spec, _METHOD)
        return _rounded(weight, self._scales[key], spec)

    def _rounded_input(self, node: Node, x: Tensor, bits: BitWidths) -> Tensor:
        if bits.weights_only:
            return x
        own = None if node.source is None else self._prepared.activation(node.source)
        if own is not None and own.fixed and own.spec.bits <= bits.activation:
            return own(x)  # type: ignore[no-any-return]
        spec = TensorSpec.activation(bits.activation, signed=self._signed(node))
        key = node.inputs[0], spec
        if key not in self._scales:
            self._scales[key] = scale_from(self._observers[node.inputs[0]], spec, _METHOD)
        return _rounded(x, self._scales[key], spec)

    def _signed(self, node: Node) -> bool:
        return node.source is None or self._prepared.activation(node.source).spec.signed


def _rounded(v: Tensor, scale: float, spec: TensorSpec) -> Tensor:
    return fake_quantize(v, v.new_tensor(scale), spec.lo, spec.hi)

"""Run a network in full precision, in which one layer at a time is quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from qkd_deploy.bits import BitWidths, TensorSpec
from qkd_deploy.export.onnx_export import flat_tensors
from qkd_deploy.graph.ir import Node, Ref, substitute
from qkd_deploy.graph.ops import operations
from qkd_deploy.graph.prepare import PreparedModel
from qkd_deploy.mixed_precision.costs import weight_layers, weight_of
from qkd_deploy.quantizers.observer import HistogramObserver
from qkd_deploy.quantizers.scale_search import initial_scale, scale_from
from qkd_deploy.quantizers.step import fake_quantize

_METHOD = "mse"

Values = dict[str, Any]
Chosen = tuple[str, BitWidths]
"""The module that is quantized, and its bits."""


class SingleLayers:
    """Run the graph of a prepared model, in evaluation mode, without its quantizers but for those of one layer.

    Call ``observe`` with some batches before ``variants``: the scales of the layers' inputs come from them.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        """Take graph and modules of ``prepared``; its scales are not used."""
        self._prepared = prepared
        self._nodes = prepared.graph.nodes
        self._layers = weight_layers(prepared)
        self._first_calls = {nodes[0].name: module for module, nodes in self._layers.items()}
        self._observers: dict[str, HistogramObserver] = {}  # of the tensors that layers read
        self._scales: dict[tuple[str, TensorSpec], float] = {}
        self._last_use = {node.name: place for place, node in enumerate(self._nodes)}
        for place, node in enumerate(self._nodes):
            self._last_use.update(dict.fromkeys(node.inputs, place))
        self._last_use.update(dict.fromkeys(prepared.graph.outputs(), len(self._nodes)))

    def outputs(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        """Compute the network's outputs in full precision, flattened."""
        return self._finish(self._start(inputs), 0)

    def observe(self, inputs: tuple[Any, ...]) -> None:
        """Observe the tensors that layers read, on one batch."""
        seen: set[str] = set()

        def take_in(node: Node, values: Values) -> None:
            if not node.is_layer or str(node.target) not in self._layers or node.inputs[0] in seen:
                return
            seen.add(node.inputs[0])
            observer = self._observers.setdefault(node.inputs[0], HistogramObserver(signed=self._signed(node)))
            observer.update(values[node.inputs[0]])

        self._finish(self._start(inputs), 0, before=take_in)

    def variants(
        self, inputs: tuple[Any, ...], widths: list[BitWidths]
    ) -> Iterator[tuple[str, BitWidths, list[Tensor]]]:
        """Yield for every module and width: module, bits, and the outputs where that module alone is quantized."""
        values = self._start(inputs)
        for place, node in enumerate(self._nodes):
            module = self._first_calls.get(node.name)
            if module is not None:
                for bits in widths:
                    yield module, bits, self._finish(dict(values), place, (module, bits))
            self._step(values, place, None)

    # -- running the graph -------------------------------------------------------------------------------------------

    def _start(self, inputs: tuple[Any, ...]) -> Values:
        return dict(zip(self._prepared.graph.inputs, inputs, strict=True))

    def _finish(
        self,
        values: Values,
        place: int,
        chosen: Chosen | None = None,
        before: Callable[[Node, Values], None] = lambda node, values: None,
    ) -> list[Tensor]:
        """Run all nodes from ``place`` on."""
        for following in range(place, len(self._nodes)):
            before(self._nodes[following], values)
            self._step(values, following, chosen)
        return flat_tensors(substitute(self._prepared.graph.output, lambda ref: values[ref.name]))

    def _step(self, values: Values, place: int, chosen: Chosen | None) -> None:
        """Run one node, and forget what nobody reads behind it."""
        node = self._nodes[place]

        def value(ref: Ref) -> Any:
            return values[ref.name]

        args, kwargs = substitute((node.args, node.kwargs), value)
        args = (values[node.name],) if node.kind == "input" else args
        values[node.name] = self._evaluate(node, args, kwargs, chosen)
        for name in (node.name, *node.inputs):
            if self._last_use[name] == place:
                values.pop(name, None)

    def _evaluate(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], chosen: Chosen | None) -> Any:
        if node.is_layer:
            value = self._layer(node, args[0], chosen)
        else:
            value = operations.apply(self._prepared.network, node, args, kwargs, training=False)
        return value if node.clip is None else value.clamp(*node.clip)

    def _layer(self, node: Node, x: Tensor, chosen: Chosen | None) -> Tensor:
        layer: Any = self._prepared.network.get_submodule(str(node.target))
        weight = weight_of(self._prepared, node)
        if chosen is not None and chosen[0] == node.target:
            x, weight = self._rounded_input(node, x, chosen[1]), self._rounded_weight(node, weight, chosen[1])
        _, bias = operations.layer_parameters(self._prepared.network, node)
        value = operations.layer_forward(layer, x, weight, bias)
        batch_norm = operations.batch_norm_of(self._prepared.network, node)
        return value if batch_norm is None else batch_norm(value)

    # -- rounding ----------------------------------------------------------------------------------------------------

    def _rounded_weight(self, node: Node, weight: Tensor, bits: BitWidths) -> Tensor:
        spec = TensorSpec.weight(bits.weight, self._prepared.settings.weight_range)
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

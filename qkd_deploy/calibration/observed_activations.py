"""Observers of all activations that have a learned scale, fed batch by batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qkd_deploy.calibration.answers import answers_of, method_for
from qkd_deploy.calibration.correction import OutputCorrection
from qkd_deploy.calibration.one_batch import tie_breaking_factors
from qkd_deploy.graph.interpreter import run
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.observer import HistogramObserver
from qkd_deploy.quantizers.scale_search import scale_from


class ObservedActivations:
    """An observer of every activation that has a learned scale, fed with the batches run so far."""

    def __init__(self, prepared: PreparedModel, method: str) -> None:
        """Set scales by ``method``; "auto" is each quantizer's own."""
        self._prepared = prepared
        self._method, self._answers = method, answers_of(prepared)
        self._observers: dict[str, HistogramObserver] = {}
        self._factors: dict[str, float] = {}
        self._next_factors = tie_breaking_factors()

    def run(self, inputs: tuple[Any, ...], *, follow: bool, correction: OutputCorrection | None = None) -> None:
        """Run a batch through the quantized network.

        Args:
            inputs: of the network.
            follow: set each scale anew before its tensor is quantized.
            correction: corrects the layers on the way.
        """
        prepared = self._prepared.at(inputs)

        def finish(node: Node, value: Any) -> Any:
            return self._finish(node, value, follow)

        def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return finish(node, prepared.unclipped(node, args, kwargs))

        if correction is None:
            run(prepared.graph, inputs, run_node)
        else:
            correction.run(inputs, finish)

    def set_scales(self) -> None:
        """Set every scale from all batches."""
        for key in self._observers:
            self._set_scale(key)

    def _finish(self, node: Node, value: Any, follow: bool) -> Any:
        """Clip, observe and quantize what a node computed."""
        if node.clip is not None:
            value = value.clamp(*node.clip)
        if node.quantizer is None:
            return value
        quantizer = self._prepared.activation(node.quantizer)
        if not quantizer.fixed:
            self._observe(node.quantizer, value, signed=quantizer.spec.signed)
            if follow:
                self._set_scale(node.quantizer)
        return quantizer(value)

    def _observe(self, key: str, value: Tensor, *, signed: bool) -> None:
        if key not in self._observers:
            self._observers[key] = HistogramObserver(signed=signed)
            self._factors[key] = next(self._next_factors)
        self._observers[key].update(value)

    def _set_scale(self, key: str) -> None:
        quantizer = self._prepared.activation(key)
        method = method_for(key, self._method, self._answers)
        method = quantizer.initialization if method == "auto" else method
        quantizer.set_scale(scale_from(self._observers[key], quantizer.spec, method) * self._factors[key])

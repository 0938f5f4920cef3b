"""The integer model: every code as ONNX Runtime computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qkd_deploy.graph.input_sizes import fits
from qkd_deploy.graph.integer.layer import IntegerLayer
from qkd_deploy.graph.interpreter import RunNode, run
from qkd_deploy.graph.ir import Graph, Node, substitute
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams, real


class FrozenModel(nn.Module):
    """The integer model that ``freeze`` makes; equal to ONNX Runtime in every code. Inference only."""

    def __init__(
        self, network: nn.Module, graph: Graph, grids: dict[str, QuantParams], layers: dict[str, IntegerLayer]
    ) -> None:
        """``network`` holds the user's modules (float parts, layer geometry); keys are those of the graph's nodes."""
        super().__init__()
        self.network = network
        self.graph = graph
        self.grids = nn.ModuleDict(grids)
        self.layers = nn.ModuleDict(layers)
        self.by_size: Callable[[FrozenModel, tuple[Any, ...]], FrozenModel] | None = None
        self.eval()

    def train(self, mode: bool = True) -> FrozenModel:
        """A frozen model stays in eval mode."""
        return super().train(False)

    def grid(self, key: str) -> QuantParams:
        """The grid of that quantizer key."""
        grid = self.grids[key]
        assert isinstance(grid, QuantParams)
        return grid

    def layer(self, node: Node) -> IntegerLayer:
        """The constants of a layer node."""
        layer = self.layers[module_key(node.name)]
        assert isinstance(layer, IntegerLayer)
        return layer

    @torch.inference_mode()
    def forward(self, *inputs: Any) -> Any:
        """Float inputs (or ready ``QuantizedTensor``) in, the user's output structure out, in floats.

        Raises:
            UserError: the model cannot be computed at the sizes of the inputs, as ``at`` says.
        """
        model = self.at(inputs)
        return real(model._run(inputs, model.evaluate))

    def at(self, inputs: tuple[Any, ...]) -> FrozenModel:
        """This model as it is at the sizes of ``inputs``: itself at those of the examples.

        Raises:
            UserError: the network does not run at these sizes, or would be computed otherwise; names the operation.
        """
        return self if self.by_size is None or fits(self.graph, inputs) else self.by_size(self, inputs)

    @torch.inference_mode()
    def codes(self, *inputs: Any) -> dict[str, npt.NDArray[np.uint8]]:
        """Stored codes of every tensor that is quantized when the model runs, by tensor name."""
        found: dict[str, npt.NDArray[np.uint8]] = {}

        def observe(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], value: QuantizedTensor) -> None:
            found[node.name] = value.grid.store(value.codes)

        self.run_observed(inputs, observe)
        return found

    def run_observed(
        self,
        inputs: tuple[Any, ...],
        observe: Callable[[Node, tuple[Any, ...], dict[str, Any], QuantizedTensor], None],
    ) -> Any:
        """Run the model; ``observe`` sees every tensor that is quantized then, with the node and its arguments."""
        model = self.at(inputs)
        constants = model.graph.constants()

        def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = model.evaluate(node, args, kwargs)
            if node.quantizer is not None and node.name not in constants:
                observe(node, args, kwargs, value)
            return value

        return model._run(inputs, run_node)

    def _run(self, inputs: tuple[Any, ...], run_node: RunNode) -> Any:
        """Run the graph in the precision that codes need: outside autocast."""
        with torch.autocast(self.device.type, enabled=False):
            return run(self.graph, inputs, run_node)

    @property
    def device(self) -> torch.device:
        """Where its constants are."""
        return next((buffer.device for buffer in self.buffers()), torch.device("cpu"))

    def evaluate(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one node on codes where its operands are codes, on floats elsewhere."""
        operator = operator_of(node)
        made = operator.integers(operator, self, node, args, kwargs)
        if made is not None:
            return made
        value = operator.floats(self.network, node, real(args), real(kwargs), False)
        if node.clip is not None:
            value = value.clamp(*node.clip)
        if node.quantizer is None:
            return value
        grid = self.grid(node.quantizer)
        return QuantizedTensor(grid.quantize(value.float()), grid)

    def evaluate_constant(self, node: Node, known: Mapping[str, Any]) -> Any:
        """Compute a node whose operands are all known, by name, whatever its kind."""
        return self.evaluate(node, *substitute((node.args, node.kwargs), lambda ref: known[ref.name]))

"""The integer model: every code as ONNX Runtime computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qkd_deploy.graph.exact.unary import RELABELLED, before_key, made_codes
from qkd_deploy.graph.integer.layer import IntegerLayer
from qkd_deploy.graph.interpreter import RunNode, run
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import operations
from qkd_deploy.graph.ops.integer_kernels import KERNELS, ON_CODES
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
        """Float inputs (or ready ``QuantizedTensor``) in, the user's output structure out, in floats."""
        return real(self._run(inputs, self.evaluate))

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
        constants = self.graph.constants()

        def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = self.evaluate(node, args, kwargs)
            if node.quantizer is not None and node.name not in constants:
                observe(node, args, kwargs, value)
            return value

        return self._run(inputs, run_node)

    def _run(self, inputs: tuple[Any, ...], run_node: RunNode) -> Any:
        """Run the graph in the precision that codes need: outside autocast."""
        with torch.autocast(self._device_type(), enabled=False):
            return run(self.graph, inputs, run_node)

    def _device_type(self) -> str:
        return next((b.device.type for b in self.buffers()), "cpu")

    def evaluate(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One node on codes where its operands are codes, on floats elsewhere."""
        grid = self.grid(node.quantizer) if node.quantizer is not None else None
        if node.is_layer:
            return self._layer(node, args[0], grid)
        if node.kind in RELABELLED and grid is not None:
            return self._relabelled(node, args[0], grid)
        if node.kind == "rescale" and isinstance(args[0], QuantizedTensor):
            return QuantizedTensor(args[0].codes, self.grid(module_key(node.name)))
        if grid is not None and node.kind in KERNELS:
            return QuantizedTensor(KERNELS[node.kind](grid, *args, **kwargs), grid)
        if node.kind in ON_CODES and isinstance(args[0], QuantizedTensor):
            moved = operations.apply(self.network, node, (args[0].codes, *args[1:]), kwargs, training=False)
            return QuantizedTensor(moved, args[0].grid) if isinstance(moved, Tensor) else moved
        value = operations.apply(self.network, node, real(args), real(kwargs), training=False)
        if node.clip is not None:
            value = value.clamp(*node.clip)
        return value if grid is None else QuantizedTensor(grid.quantize(value.float()), grid)

    def _relabelled(self, node: Node, x: QuantizedTensor, grid: QuantParams) -> QuantizedTensor:
        """The stored codes stay as they were made; what they stand for changes."""
        before = self.grid(before_key(node))
        made = made_codes(node.kind, x.real(), before.scale).clamp_(before.lo, before.hi)
        return QuantizedTensor(made + (before.zero_point - grid.zero_point), grid)

    def _layer(self, node: Node, x: Any, grid: QuantParams | None) -> Any:
        layer, module = self.layer(node), self.network.get_submodule(str(node.target))
        if not isinstance(x, QuantizedTensor) or (grid is None and node.kind != "linear"):
            bias = (
                layer.bias.double() * (x.grid.scale * layer.scale).double()
                if isinstance(x, QuantizedTensor)
                else layer.bias
            )
            value = operations.layer_forward(module, real(x), layer.real_weight(), bias.float())
            if node.clip is not None:
                value = value.clamp(*node.clip)
            return value if grid is None else QuantizedTensor(grid.quantize(value), grid)
        total = layer.accumulate(module, x)
        multiplier = layer.multiplier(module, x, total)
        if grid is None:
            total.mul_(multiplier)
            return total if node.clip is None else total.clamp(*node.clip)
        return QuantizedTensor(total.mul_(multiplier / grid.scale).clamp_(grid.lo, grid.hi).round_(), grid)

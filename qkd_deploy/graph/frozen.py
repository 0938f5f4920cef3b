"""The integer model: codes, scales, and the exact arithmetic of ONNX Runtime's kernels in PyTorch.

Codes travel as float32 tensors of centered integers (code minus zero point), which every device computes exactly and
fast. All roundings are those of the runtime: float32, half to even, in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qkd_deploy.graph import operations
from qkd_deploy.graph.exact_rows import eps_in_steps, layer_norm, row_center, softmax_codes
from qkd_deploy.graph.fold import FoldedLayer, dequantized_weight
from qkd_deploy.graph.ir import Graph, Node, rebuilt
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.unary import RELABELLED, before_key, made_codes

POOL_CODE = 64
"""Weight code of average pools written as convolutions: the largest that is safe on every x86 CPU."""
_EXACT_FLOAT32 = 2**24


class Grid(nn.Module):
    """The integer grid of a tensor: ``value = code * scale``, stored as ``code + zero_point`` in uint8."""

    scale: Tensor

    def __init__(self, scale: float, bits: int, zero_point: int, lo: int, hi: int) -> None:
        """``lo`` and ``hi`` are centered codes; ``scale`` is rounded to float32."""
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.bits, self.zero_point, self.lo, self.hi = bits, zero_point, lo, hi

    @property
    def extent(self) -> int:
        """Largest magnitude of a centered code."""
        return max(-self.lo, self.hi)

    def quantize(self, x: Tensor) -> Tensor:
        """Centered codes of float values."""
        return torch.round(x / self.scale).clamp_(self.lo, self.hi)

    def store(self, codes: Tensor) -> npt.NDArray[np.uint8]:
        """Centered codes as they are stored: uint8, with the zero point."""
        return (codes + self.zero_point).to(torch.uint8).cpu().numpy()

    def times(self, factor: float) -> Grid:
        """The grid of the same codes when they stand for ``factor`` times as much."""
        return Grid(float(self.scale * factor), self.bits, self.zero_point, self.lo, self.hi)

    def extra_repr(self) -> str:
        """Scale and range for ``print``."""
        return f"scale {self.scale.item():.6g}, zero point {self.zero_point}, codes {self.lo}..{self.hi}"


class TableGrid(Grid):
    """The grid of a function's result, with the codes of the function for each of its operand's codes."""

    table: Tensor

    def __init__(self, grid: Grid, table: Tensor) -> None:
        """``table``: uint8 ``[256]``, stored codes by the operand's stored codes."""
        super().__init__(float(grid.scale), grid.bits, grid.zero_point, grid.lo, grid.hi)
        self.register_buffer("table", table)


class Codes(NamedTuple):
    """A quantized tensor: centered codes (float32 integers) and their grid."""

    codes: Tensor
    grid: Grid

    def real(self) -> Tensor:
        """DequantizeLinear: ``code * scale``."""
        return self.codes * self.grid.scale


class IntegerLayer(nn.Module):
    """A convolution or linear layer with integer weights.

    With codes in, it computes QLinearConv, QGemm or (no output grid, linear only) QGemm with float output; with floats
    in, an ordinary float layer with the same weights.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, folded: FoldedLayer, weight_bits: int) -> None:
        """Keep the constants of ``fold_layer``."""
        super().__init__()
        self.register_buffer("codes", folded.codes)
        self.register_buffer("scale", folded.scale)
        self.register_buffer("bias", folded.bias)
        self.upscale, self.weight_bits, self.accumulator = folded.upscale, weight_bits, folded.accumulator
        # the codes before upscaling keep more sums below 2^24, where float32 is exact
        self._exact_product = self.accumulator // self.upscale < _EXACT_FLOAT32
        largest_bias = int(folded.bias.abs().max()) if folded.bias_scale is not None else 0
        self._exact_sum = self.accumulator + largest_bias < _EXACT_FLOAT32

    def accumulate(self, layer: nn.Module, x: Codes) -> Tensor:
        """``f32(acc + bias)``: the int32 accumulator and bias, rounded once to float32; channels in dim 1 or last."""
        exact = self._exact_product and not x.codes.is_cuda  # CUDA may choose TF32 or Winograd for float32
        dtype = torch.float32 if exact else torch.float64
        weight = self.codes.to(dtype).div_(self.upscale)
        with torch.backends.nnpack.flags(enabled=False):  # its Winograd transforms round
            total = operations.layer_forward(layer, x.codes.to(dtype), weight, None)
        if not (exact and self._exact_sum):
            total = total.double()
        return total.mul_(self.upscale).add_(self._channels(layer, self.bias, total)).float()

    def multiplier(self, layer: nn.Module, x: Codes, like: Tensor) -> Tensor:
        """``f32(s_x * s_w)`` per channel, shaped to broadcast."""
        return self._channels(layer, x.grid.scale * self.scale, like)

    @staticmethod
    def _channels(layer: nn.Module, values: Tensor, like: Tensor) -> Tensor:
        values = values if values.is_floating_point() else values.to(like.dtype)
        return values if isinstance(layer, nn.Linear) else values.view(-1, *[1] * (like.dim() - 2))

    def real_weight(self) -> Tensor:
        """DequantizeLinear of the weights."""
        return dequantized_weight(self.codes, self.scale)


class FrozenModel(nn.Module):
    """The integer model that ``freeze`` makes; equal to ONNX Runtime in every code. Inference only."""

    def __init__(
        self, network: nn.Module, graph: Graph, grids: dict[str, Grid], layers: dict[str, IntegerLayer]
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

    def grid(self, key: str) -> Grid:
        """The grid of that quantizer key."""
        grid = self.grids[key]
        assert isinstance(grid, Grid)
        return grid

    def layer(self, node: Node) -> IntegerLayer:
        """The constants of a layer node."""
        layer = self.layers[module_key(node.name)]
        assert isinstance(layer, IntegerLayer)
        return layer

    @torch.inference_mode()
    def forward(self, *inputs: Any) -> Any:
        """Float inputs (or ready ``Codes``) in, the user's output structure out, in floats."""
        return real(self.run(inputs, self.evaluate))

    @torch.inference_mode()
    def codes(self, *inputs: Any) -> dict[str, npt.NDArray[np.uint8]]:
        """Stored codes of every tensor that is quantized when the model runs, by tensor name."""
        found: dict[str, npt.NDArray[np.uint8]] = {}
        constants = self.graph.constants()

        def evaluate(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = self.evaluate(node, args, kwargs)
            if node.quantizer is not None and node.name not in constants:
                found[node.name] = value.grid.store(value.codes)
            return value

        self.run(inputs, evaluate)
        return found

    def run(self, inputs: tuple[Any, ...], evaluate: Callable[[Node, tuple[Any, ...], dict[str, Any]], Any]) -> Any:
        """``Graph.run`` in the precision that codes need: outside autocast."""
        with torch.autocast(self._device_type(), enabled=False):
            return self.graph.run(inputs, evaluate)

    def _device_type(self) -> str:
        return next((b.device.type for b in self.buffers()), "cpu")

    def evaluate(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One node on codes where its operands are codes, on floats elsewhere."""
        grid = self.grid(node.quantizer) if node.quantizer is not None else None
        if node.kind == "layer":
            return self._layer(node, args[0], grid)
        if node.kind in RELABELLED and grid is not None:
            return self._relabelled(node, args[0], grid)
        if node.kind == "rescale" and isinstance(args[0], Codes):
            return Codes(args[0].codes, self.grid(module_key(node.name)))
        if grid is not None and node.kind in _INTEGER:
            return Codes(_INTEGER[node.kind](grid, *args, **kwargs), grid)
        if node.kind in _ON_CODES and isinstance(args[0], Codes):
            moved = operations.apply(self.network, node, (args[0].codes, *args[1:]), kwargs, training=False)
            return Codes(moved, args[0].grid) if isinstance(moved, Tensor) else moved
        value = operations.apply(self.network, node, real(args), real(kwargs), training=False)
        if node.clip is not None:
            value = value.clamp(*node.clip)
        return value if grid is None else Codes(grid.quantize(value), grid)

    def _relabelled(self, node: Node, x: Codes, grid: Grid) -> Codes:
        """The stored codes stay as they were made; what they stand for changes."""
        before = self.grid(before_key(node))
        made = made_codes(node.kind, x.real(), before.scale).clamp_(before.lo, before.hi)
        return Codes(made + (before.zero_point - grid.zero_point), grid)

    def _layer(self, node: Node, x: Any, grid: Grid | None) -> Any:
        layer, module = self.layer(node), self.network.get_submodule(str(node.target))
        if not isinstance(x, Codes) or (grid is None and not isinstance(module, nn.Linear)):
            bias = layer.bias.double() * (x.grid.scale * layer.scale).double() if isinstance(x, Codes) else layer.bias
            value = operations.layer_forward(module, real(x), layer.real_weight(), bias.float())
            if node.clip is not None:
                value = value.clamp(*node.clip)
            return value if grid is None else Codes(grid.quantize(value), grid)
        total = layer.accumulate(module, x)
        multiplier = layer.multiplier(module, x, total)
        if grid is None:
            total.mul_(multiplier)
            return total if node.clip is None else total.clamp(*node.clip)
        return Codes(total.mul_(multiplier / grid.scale).clamp_(grid.lo, grid.hi).round_(), grid)


def real(value: Any) -> Any:
    """Nested values with every ``Codes`` dequantized."""
    if isinstance(value, Codes):
        return value.real()
    return rebuilt(value, real)


def _input(grid: Grid, x: Any) -> Tensor:
    return x.codes if isinstance(x, Codes) else grid.quantize(x.float())


def _add(grid: Grid, a: Codes, b: Codes) -> Tensor:
    return grid.quantize(a.real() + b.real())


def _mul(grid: Grid, a: Codes, b: Codes) -> Tensor:
    return grid.quantize(a.real() * b.real())


def _matmul(grid: Grid, a: Codes, b: Codes) -> Tensor:
    sums = torch.matmul(a.codes.double(), b.codes.double()).float()
    return sums.mul_(a.grid.scale * b.grid.scale / grid.scale).clamp_(grid.lo, grid.hi).round_()


def _leaky_relu(grid: Grid, x: Codes, slope: float | Tensor) -> Tensor:
    return grid.quantize(operations.leaky_relu(x.real(), slope))


def _sigmoid(grid: Grid, x: Codes) -> Tensor:
    steps = torch.sigmoid(x.real().double()) / grid.scale.double()
    return torch.round(steps).clamp_(grid.lo, grid.hi).float()


def _table(grid: Grid, x: Codes, *_: Any, **__: Any) -> Tensor:
    assert isinstance(grid, TableGrid)
    centered = grid.table.float() - grid.zero_point
    return centered[(x.codes + x.grid.zero_point).long()]


def _softmax(grid: Grid, x: Codes) -> Tensor:
    return softmax_codes(x.codes + x.grid.zero_point, float(x.grid.scale)).clamp_(grid.lo, grid.hi)


def _layer_norm(grid: Grid, x: Codes, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    source = x.grid
    center = row_center(source.zero_point, source.lo, source.hi, x.codes.shape[-1])
    steps = eps_in_steps(eps, float(source.scale))
    return grid.quantize(layer_norm(x.codes + source.zero_point, center, steps, weight, bias))


def _concat(grid: Grid, parts: list[Codes], dim: int) -> Tensor:
    return torch.cat([grid.quantize(part.real()) for part in parts], dim)


def _requantize(grid: Grid, x: Any) -> Tensor:
    return grid.quantize(real(x))


def _global_avg_pool(grid: Grid, x: Codes) -> Tensor:
    dims = tuple(range(2, x.codes.dim()))
    count = x.codes[0, 0].numel()
    total = x.codes.double().sum(dims, keepdim=True).float()
    return torch.round(total * (x.grid.scale / (grid.scale * float(count)))).clamp_(grid.lo, grid.hi)


def _avg_pool(grid: Grid, x: Codes, **options: Any) -> Tensor:
    """A depthwise convolution with weight codes 64, which ONNX Runtime computes faster and exactly, unlike its pool."""
    total = sum(operations.taps(x.codes.double(), **options), torch.zeros(())).mul(POOL_CODE).float()
    weight_scale = x.grid.scale.new_tensor(pool_weight_scale(options["kernel_size"]))
    return torch.round((total * (x.grid.scale * weight_scale / grid.scale)).clamp_(grid.lo, grid.hi))


def _uneven_avg_pool(grid: Grid, x: Codes, **options: Any) -> Tensor:
    """QLinearAveragePool: float32 sums tap by tap, the zero point inside the rounding."""
    values = x.real()
    total = sum(operations.taps(values, **options), torch.zeros(()))
    count = sum(operations.taps(torch.ones_like(values[:1, :1]), **options), torch.zeros(()))
    return (torch.round(total / count / grid.scale + grid.zero_point) - grid.zero_point).clamp_(grid.lo, grid.hi)


def pool_weight_scale(kernel_size: tuple[int, ...]) -> float:
    """Scale of the weights of an average pool written as a convolution with codes ``POOL_CODE``."""
    return float(np.float32(1 / (POOL_CODE * np.prod(kernel_size))))


_INTEGER: dict[str, Callable[..., Tensor]] = {
    "input": _input,
    "add": _add,
    "mul": _mul,
    "matmul": _matmul,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "table": _table,
    "concat": _concat,
    "requantize": _requantize,
    "clip": _requantize,
    "global_avg_pool": _global_avg_pool,
    "avg_pool": _avg_pool,
    "uneven_avg_pool": _uneven_avg_pool,
}
_ON_CODES = ("max_pool", "reshape", "transpose", "slice", "pad", "resize", "roll", "dropout", "python")

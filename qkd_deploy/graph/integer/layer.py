"""A layer's integer constants, and its sums of products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.exact.fold import FoldedLayer, dequantized_weight
from qkd_deploy.graph.ops.layers import layer_forward
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams, real

_EXACT_FLOAT32 = 2**24


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

    def forward(
        self,
        layer: nn.Module,
        x: Any,
        grid: QuantParams | None,
        clip: tuple[float, float] | None,
        *,
        needs_grid: bool,
    ) -> Any:
        """Compute the layer.

        Args:
            layer: the user's module, for its geometry.
            x: a ``QuantizedTensor``, or floats.
            grid: of the output; None for floats.
            clip: the range of the activation function behind it.
            needs_grid: True where integers cannot give floats, so that a layer without ``grid`` runs in float.
        """
        if not isinstance(x, QuantizedTensor) or (grid is None and needs_grid):
            return self._in_float(layer, x, grid, clip)
        total = self.accumulate(layer, x)
        multiplier = self.multiplier(layer, x, total)
        if grid is not None:
            return QuantizedTensor(total.mul_(multiplier / grid.scale).clamp_(grid.lo, grid.hi).round_(), grid)
        total.mul_(multiplier)
        return total if clip is None else total.clamp(*clip)

    def _in_float(self, layer: nn.Module, x: Any, grid: QuantParams | None, clip: tuple[float, float] | None) -> Any:
        bias = self.bias
        if isinstance(x, QuantizedTensor):
            bias = bias.double() * (x.grid.scale * self.scale).double()
        value = layer_forward(layer, real(x), self.real_weight(), bias.float())
        if clip is not None:
            value = value.clamp(*clip)
        return value if grid is None else QuantizedTensor(grid.quantize(value), grid)

    def accumulate(self, layer: nn.Module, x: QuantizedTensor) -> Tensor:
        """``f32(acc + bias)``: the int32 accumulator and bias, rounded once to float32; channels in dim 1 or last."""
        exact = self._exact_product and not x.codes.is_cuda  # CUDA may choose TF32 or Winograd for float32
        dtype = torch.float32 if exact else torch.float64
        weight = self.codes.to(dtype).div_(self.upscale)
        with torch.backends.nnpack.flags(enabled=False):  # its Winograd transforms round
            total = layer_forward(layer, x.codes.to(dtype), weight, None)
        if not (exact and self._exact_sum):
            total = total.double()
        return total.mul_(self.upscale).add_(self._channels(layer, self.bias, total)).float()

    def multiplier(self, layer: nn.Module, x: QuantizedTensor, like: Tensor) -> Tensor:
        """``f32(s_x * s_w)`` per channel, shaped to broadcast."""
        return self._channels(layer, x.grid.scale * self.scale, like)

    @staticmethod
    def _channels(layer: nn.Module, values: Tensor, like: Tensor) -> Tensor:
        values = values if values.is_floating_point() else values.to(like.dtype)
        return values if isinstance(layer, nn.Linear) else values.view(-1, *[1] * (like.dim() - 2))

    def real_weight(self) -> Tensor:
        """DequantizeLinear of the weights."""
        return dequantized_weight(self.codes, self.scale)

"""Layer + batch norm as integer constants.

With weights ``w = s_w * q`` and a batch norm ``gamma * (y - mean) / sigma + beta`` behind the layer, per channel:

    scale = s_w * |gamma| / sigma        codes = sign(gamma) * q        bias = beta + (b - mean) * gamma / sigma

so the learned integers survive untouched. The codes are then spread over the int8 container by a power of two that
divides the scale (``TensorSpec.upscale``), which is exact and makes the bias grid ``s_x * scale`` that much finer.

Guards, channel by channel: gamma = 0 would make the scale zero and lose beta, and a tiny scale would make the int32
bias, or accumulator + bias, wrap around silently. So the scale is at least ``|bias| / (s_x * (2^31 - 1 - max|acc|))``
and at least 1e-12; where that raises it, the channel's codes are rounded again on the coarser scale.

Only IEEE-exact operations (no exp, log or pow) make a constant, so that every machine folds to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qkd_deploy.bits import TensorSpec, keep_in_float
from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.base import along_channels
from qkd_deploy.quantizers.batch_norm import BatchNorm

SCALE_FLOOR = 1e-12
_INT32_MAX = 2**31 - 1
_LARGEST_STORED = 255
_SLACK = 2**12  # more than what rounding the scale to float32 can move a bias code of 2^31


@dataclass(frozen=True)
class FoldedLayer:
    """Constants of one integer layer.

    Attributes:
        codes: int8, the weight's shape, upscaled.
        scale: float32 ``[C_out]``, so that ``weight = codes * scale``.
        bias: int32 ``[C_out]`` on the grid ``bias_scale``; float32 in real units for a layer with float inputs.
        bias_scale: float32 ``[C_out]``, ``s_x * scale``; None for a layer with float inputs.
        upscale: the power of two inside ``codes``.
        accumulator: largest magnitude that a sum of products can reach, in int32 units; 0 for float inputs.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor
    bias_scale: Tensor | None
    upscale: int
    accumulator: int

    def weight(self) -> Tensor:
        """The weights in real units, float32."""
        return dequantized_weight(self.codes, self.scale)

    def real_bias(self) -> Tensor:
        """The bias in real units, float32 ``[C_out]``."""
        return self.bias if self.bias_scale is None else (self.bias.double() * self.bias_scale.double()).float()


@torch.no_grad()
def fold_layer(
    codes: Tensor,
    step: Tensor,
    spec: TensorSpec,
    bias: Tensor | None,
    batch_norm: BatchNorm | None,
    affine: tuple[Tensor, Tensor] | None,
    input_scale: Tensor | None,
    input_extent: int,
    name: str,
    path: str,
) -> FoldedLayer:
    """Fold a layer.

    Args:
        codes: learned weight codes, float32 integers, the weight's shape with the output channels first.
        step: learned weight step, float32: a scalar, or one value per output channel.
        spec: the weights' grid.
        bias: the layer's own bias ``[C_out]`` or None.
        batch_norm: what follows the layer, in its running statistics, or None.
        affine: factor and offset a channel, float64, of what follows that, or None.
        input_scale: scalar float32 scale of the input codes; None for float inputs.
        input_extent: largest magnitude of a centered input code.
        name: the layer's name, for messages.
        path: of the user's module, for messages.

    Raises:
        UserError: constants that are not finite, or a sum of products that could overflow int32 whatever the scale.
    """
    base = codes.double()
    factor, offset = _affine(base.shape[0], bias, batch_norm, base)
    if affine is not None:
        factor, offset = factor * affine[0], offset * affine[0] + affine[1]
    scale = step.double() * factor.abs()
    if not bool(torch.isfinite(scale).all() and torch.isfinite(offset).all()):
        raise UserError(f"{name} has weights or statistics that are not finite; restore an earlier checkpoint")
    base = base * along_channels(torch.where(factor < 0, -1.0, 1.0), base)
    upscale = spec.upscale
    if input_scale is None:
        base, scale32 = _raise_scale(base, scale, torch.zeros_like(scale), upscale)
        return FoldedLayer(_int8(base * upscale), scale32, offset.float(), None, upscale, 0)
    accumulators = base.abs().flatten(1).sum(1) * (upscale * input_extent)
    limit = _INT32_MAX - _SLACK - accumulators
    # some kernels add products of stored codes, zero point included, and subtract its part afterwards
    stored = base.abs().flatten(1).sum(1) * (upscale * _LARGEST_STORED)
    if bool((limit < _SLACK).any() or (stored > _INT32_MAX - _SLACK).any()):
        raise UserError(f"{name} sums so many products that an int32 accumulator could overflow; {keep_in_float(path)}")
    x = input_scale.double()
    base, scale32 = _raise_scale(base, scale, offset.abs() / (x * limit), upscale)
    bias_scale = input_scale.float() * scale32
    bias_codes = torch.round(offset / bias_scale.double()).clamp(-limit, limit)
    return FoldedLayer(
        _int8(base * upscale), scale32, bias_codes.to(torch.int32), bias_scale, upscale, int(accumulators.max())
    )


def _affine(channels: int, bias: Tensor | None, batch_norm: BatchNorm | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and offset per channel, float64: ``bn(conv + b) = factor * conv + offset``."""
    own = bias.double() if bias is not None else torch.zeros(channels, dtype=torch.float64, device=like.device)
    if batch_norm is None:
        return torch.ones_like(own), own
    assert batch_norm.running_mean is not None and batch_norm.running_var is not None
    sigma = torch.sqrt(batch_norm.running_var.double() + batch_norm.eps)
    gamma = batch_norm.weight.double() if batch_norm.affine else torch.ones_like(sigma)
    beta = batch_norm.bias.double() if batch_norm.affine else torch.zeros_like(sigma)
    factor = gamma / sigma
    return factor, beta + (own - batch_norm.running_mean.double()) * factor


def _raise_scale(base: Tensor, scale: Tensor, floor: Tensor, upscale: int) -> tuple[Tensor, Tensor]:
    """Upscaled float32 scales at or above the floor; codes of channels whose scale was raised are rounded again."""
    upscaled = (scale / upscale).float()
    floor = floor.clamp(min=SCALE_FLOOR)
    low = upscaled.double() < floor
    raised = torch.where(low, floor.float(), upscaled)
    ratio = torch.where(low, scale / (raised.double() * upscale), 1.0)
    return torch.round(base * along_channels(ratio, base)), raised


def _int8(codes: Tensor) -> Tensor:
    return codes.to(torch.int8)


def dequantized_weight(codes: Tensor, scale: Tensor) -> Tensor:
    """``codes * scale`` per output channel, float32: ONNX's DequantizeLinear along axis 0."""
    return codes.float() * along_channels(scale, codes)

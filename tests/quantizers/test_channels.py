"""One scale per output channel: every channel is quantized as if it were a tensor of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from qkd_deploy.bits import TensorSpec
from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.base import Quantizer
from qkd_deploy.quantizers.registry import QUANTIZERS
from qkd_deploy.quantizers.scale_search import METHODS, channel_scales, initial_scale

CHANNELS = 5
EVERY = pytest.mark.parametrize("name", QUANTIZERS)
SHAPES = pytest.mark.parametrize("shape", [(CHANNELS, 7, 3, 3), (CHANNELS, 1, 3, 3), (CHANNELS, 40)], ids=str)


def weights(shape: tuple[int, ...]) -> Tensor:
    """Channels that differ by a factor of a hundred, as folded batch norms and depthwise layers leave them."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values * torch.logspace(-2, 0, CHANNELS).view(-1, *[1] * (len(shape) - 1))


def apart(name: str, spec: TensorSpec, scales: Tensor) -> Iterator[Quantizer]:
    """Quantizers of a single scale, one for each channel."""
    for scale in scales:
        quantizer = QUANTIZERS[name].weight(spec)
        quantizer.set_scale(float(scale))
        yield quantizer


def backward(quantizer: Quantizer, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    v = v.clone().requires_grad_()
    result = quantizer(v)
    result.backward(grad)
    assert v.grad is not None
    moves = [move.grad for move in quantizer.learned() if move.grad is not None]
    assert len(moves) == len(quantizer.learned())
    return result.detach(), v.grad, moves


@EVERY
@SHAPES
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_channel_is_a_tensor_of_its_own(name: str, shape: tuple[int, ...], bits: int) -> None:
    v, spec = weights(shape), TensorSpec.weight(bits)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    quantizer = QUANTIZERS[name].weight(spec, CHANNELS)
    quantizer.set_scale(quantizer.start(v))
    scales = quantizer.scale().detach()
    assert scales.shape == (CHANNELS,) and len(scales.unique()) == CHANNELS
    result, grad_v, moves = backward(quantizer, v, grad)
    codes = quantizer.codes(v)
    assert torch.equal(result, codes * scales.view(-1, *[1] * (v.dim() - 1)))
    for index, alone in enumerate(apart(name, spec, scales)):
        part = slice(index, index + 1)
        expected, expected_v, expected_moves = backward(alone, v[part], grad[part])
        assert torch.equal(codes[part], alone.codes(v[part]))
        torch.testing.assert_close(result[part], expected)
        torch.testing.assert_close(grad_v[part], expected_v)
        for move, other in zip(moves, expected_moves, strict=True):
            torch.testing.assert_close(move[index], other, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_scale_of_a_channel_is_that_of_its_weights_alone(method: str, bits: int) -> None:
    v, spec = weights((CHANNELS, 30, 3, 3)), TensorSpec.weight(bits)
    alone = [initial_scale(channel, spec, method) for channel in v]
    assert channel_scales(v, spec, method).tolist() == pytest.approx(alone, rel=0.001)  # a histogram's bin


def test_channels_of_zeros_and_values_that_are_not_finite() -> None:
    v, spec = weights((CHANNELS, 9)), TensorSpec.weight(8)
    v[2] = 0
    for method in METHODS:
        scales = channel_scales(v, spec, method)
        others = scales[torch.tensor([0, 1, 3, 4])]
        assert float(scales[2]) == pytest.approx(float(others.mean()))
        assert bool((channel_scales(torch.zeros(3, 4), spec, method) > 0).all())
    v[1, 1] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        channel_scales(v, spec)
    with pytest.raises(UserError, match="unknown initialisation"):
        channel_scales(v, spec, "msr")


@EVERY
def test_steps_are_shown_as_a_range(name: str) -> None:
    quantizer = QUANTIZERS[name].weight(TensorSpec.weight(4), 2)
    quantizer.set_scale(torch.tensor([0.25, 0.5]))
    assert "2 steps 0.25..0.5" in repr(quantizer)

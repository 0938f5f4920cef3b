"""Batch norm and quantizer joined: what comes out, flows back and is counted is the same as apart."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy.bits import TensorSpec
from qkd_deploy.quantizers.batch_norm import BatchNorm, normalize_and_quantize
from qkd_deploy.quantizers.lsq import LsqQuantizer
from qkd_deploy.quantizers.step import StepQuantizer

GRIDS = [TensorSpec.activation(4, signed=False), TensorSpec.activation(8, signed=True), TensorSpec.saturating(2)]


def layers(spec: TensorSpec, shape: tuple[int, ...] = (6, 5, 4, 3)) -> tuple[BatchNorm, StepQuantizer, Tensor]:
    torch.manual_seed(0)
    norm: BatchNorm = nn.BatchNorm2d(shape[1]) if len(shape) == 4 else nn.BatchNorm1d(shape[1])
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.normal_(norm.bias)
    return norm, LsqQuantizer(spec, step=2 / spec.hi), torch.randn(shape) * 3 + 1


def results(apart: bool, norm: BatchNorm, quantizer: StepQuantizer, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    norm, quantizer, x = copy.deepcopy(norm), copy.deepcopy(quantizer), x.clone().requires_grad_()
    y = quantizer(norm(x)) if apart else normalize_and_quantize(norm, quantizer, x)
    (y * weights).sum().backward()
    found = {"y": y.detach(), "x": x.grad, **dict(norm.named_buffers())}
    found |= {name: p.grad for module in (norm, quantizer) for name, p in module.named_parameters()}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("spec", GRIDS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "tokens", "flat"])
def test_joined_equals_apart(spec: TensorSpec, layout: str) -> None:
    shapes = {"tokens": (6, 5, 7), "flat": (12, 5)}
    norm, quantizer, x = layers(spec, shapes.get(layout, (6, 5, 4, 3)))
    weights = torch.randn(x.shape)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    joined, apart = (results(apart, norm, quantizer, x, weights) for apart in (False, True))
    assert joined.keys() == apart.keys()
    assert torch.equal(
        torch.round(joined["y"] / quantizer.scale().detach()), torch.round(apart["y"] / quantizer.scale().detach())
    )
    for name, value in joined.items():
        torch.testing.assert_close(
            value, apart[name], rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name} {text}"
        )


def test_a_fixed_step_gets_no_gradient() -> None:
    norm, _, x = layers(GRIDS[0])
    quantizer = StepQuantizer(GRIDS[0], step=0.3, learnable=False)
    normalize_and_quantize(norm, quantizer, x).sum().backward()
    assert quantizer.step.move.grad is None and norm.weight.grad is not None


def test_only_the_input_is_kept_for_the_backward_pass() -> None:
    norm, quantizer, x = layers(GRIDS[0], (64, 5, 8, 8))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = normalize_and_quantize(norm, quantizer, x.requires_grad_())
    assert y.requires_grad
    assert x.nbytes <= sum(kept.values()) < 1.05 * x.nbytes


class Doubled(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("case", ["subclass", "frozen", "hook on norm", "hook on quantizer", "no momentum", "bfloat16"])
def test_whatever_is_unusual_stays_apart(case: str) -> None:
    norm, quantizer, x = layers(GRIDS[1])
    called = []
    if case == "subclass":
        norm = Doubled(5)
    elif case == "frozen":
        norm.eval()
    elif case == "no momentum":
        norm.momentum = None
    elif case == "bfloat16":
        x = x.bfloat16()
    elif case.startswith("hook"):
        module = norm if case == "hook on norm" else quantizer
        module.register_forward_hook(lambda *_: called.append(1))
    twin = copy.deepcopy(norm)
    assert torch.equal(normalize_and_quantize(norm, quantizer, x), quantizer(twin(x)))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), twin.buffers(), strict=True))
    assert bool(called) == case.startswith("hook")


def test_one_value_per_channel_is_refused_as_by_batch_norm() -> None:
    norm, quantizer, x = layers(GRIDS[0], (1, 5))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalize_and_quantize(norm, quantizer, x)

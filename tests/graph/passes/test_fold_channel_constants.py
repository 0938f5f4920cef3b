"""Constants a channel behind layers: which ones are folded, that they are trained, and that the codes stay exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, deploy, noise, settle
from placement import IMAGES, Small, check, unquantized
from rewriting import assert_stays
from torch import Tensor, nn

from qkd_deploy import UserError, initialize, prepare
from qkd_deploy.calibration.calibrate import calibrate
from qkd_deploy.graph.passes.fold_channel_constants import fold_channel_constants
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.training.methods.feature_points import output_of_module

SHAPE = (1, -1, 1, 1)


class Constants(nn.Module):
    """Buffers and parameters of eight channels, and a function of them and a tensor; one gain is zero, one negative."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        for seed, name in enumerate(("weight", "bias", "running_mean")):
            self.register_buffer(name, noise(8, seed=seed) * 0.3 + (name == "weight"))
        self.register_buffer("running_var", noise(8, seed=3).abs() + 0.5)
        self.gain, self.shift = nn.Parameter(noise(8, seed=4)), nn.Parameter(noise(8, seed=5) * 0.1)
        self.alpha = nn.Parameter(torch.tensor([0.7]))
        self.gain.data[0], self.gain.data[1] = 0.0, -1.0
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)  # type: ignore[no-any-return]


def frozen_as_in_torchvision(n: Any, x: Any) -> Any:
    scale = n.weight.reshape(SHAPE) * (n.running_var.reshape(SHAPE) + 1e-5).rsqrt()
    return x * scale + (n.bias.reshape(SHAPE) - n.running_mean.reshape(SHAPE) * scale)


def frozen_in_words(n: Any, x: Any) -> Any:
    x = (x - n.running_mean.view(SHAPE)) / torch.sqrt(n.running_var.view(SHAPE) + 1e-5)
    return x * n.weight.view(SHAPE) + n.bias.view(SHAPE)


def frozen_as_a_function(n: Any, x: Any) -> Any:
    return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.0, 1e-5)


BEHIND_A_CONVOLUTION: dict[str, Callable[[Any, Any], Any]] = {
    "a frozen batch norm as torchvision has it": frozen_as_in_torchvision,
    "a frozen batch norm step by step": frozen_in_words,
    "a frozen batch norm as a function": frozen_as_a_function,
    "statistics alone": lambda n, x: F.batch_norm(x, n.running_mean, n.running_var, training=False),
    "an affine layer": lambda n, x: n.gain.view(SHAPE) * x + n.shift.view(SHAPE),
    "shapes without a batch": lambda n, x: x * n.gain.view(8, 1, 1) + n.shift[:, None, None],
    "a bias of its own": lambda n, x: x + n.shift.view(SHAPE),
    "one gain for all channels": lambda n, x: x * n.alpha,
    "another sign": lambda n, x: 1 - x,
    "transposed": lambda n, x: (x.permute(0, 2, 3, 1) * n.gain + n.shift).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("case", BEHIND_A_CONVOLUTION)
def test_behind_a_convolution_vanishes(case: str) -> None:
    network = Small(
        lambda n, x: torch.relu(n.own(n.conv(x))),
        conv=nn.Conv2d(8, 8, 3, padding=1, bias=False),
        own=Constants(BEHIND_A_CONVOLUTION[case]),
    )
    deployed = check(network, bits="w8a8")
    assert kinds(deployed.prepared).isdisjoint({"mul", "add"})
    prepared = prepare(network.eval(), "w8a8", (IMAGES,))
    with torch.no_grad():
        torch.testing.assert_close(unquantized(prepared, IMAGES), network(IMAGES), atol=1e-5, rtol=1e-4)
    assert [*prepared.network.state_dict()] == [*network.state_dict()]


def kinds(prepared: PreparedModel) -> set[str]:
    return {node.kind for node in prepared.graph.nodes}


def test_behind_a_batch_norm_constants_join_the_layer_too() -> None:
    network = Small(lambda n, x: n.own(n.norm2(n.conv(x))), conv=nn.Conv2d(8, 8, 1), norm2=nn.BatchNorm2d(8))
    network.own = Constants(BEHIND_A_CONVOLUTION["an affine layer"])
    deployed = check(network, bits="w4a4")
    (node,) = [node for node in deployed.prepared.layers() if node.affine]
    assert node.batch_norm == "norm2"


class Block(nn.Module):
    """A residual block of linear layers on tokens, or of pointwise ones in images, with a layer scale and dropout."""

    def __init__(self, images: bool) -> None:
        super().__init__()
        self.images = images
        self.stem, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.up, self.down, self.dropout = nn.Linear(8, 16), nn.Linear(16, 8), nn.Dropout(0.1)
        self.scale, self.head = nn.Parameter(noise(8, seed=1) * 0.3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.permute(0, 2, 3, 1) if self.images else x.flatten(2).transpose(1, 2)
        y = self.dropout(self.down(F.gelu(self.up(self.norm(tokens)))))
        if self.images:
            return self.head((x + y.permute(0, 3, 1, 2) * self.scale.reshape(1, -1, 1, 1)).mean((2, 3)))  # type: ignore[no-any-return]
        return self.head((tokens + self.scale * y).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("images", [False, True])
def test_a_layer_scale_joins_the_linear_layer_in_front(images: bool) -> None:
    network = Block(images).eval()
    deployed = deploy(network, (IMAGES,), "w8a8")
    assert [node.name for node in deployed.prepared.layers() if node.affine] == ["down"]
    assert "mul" not in kinds(deployed.prepared)
    assert not assert_same_codes(deployed, (IMAGES,))
    deployed.prepared.train()(IMAGES).square().mean().backward()
    scale = dict(deployed.prepared.network.named_parameters())["scale"]
    assert scale.grad is not None and bool((scale.grad != 0).all())


STAYS: dict[str, Callable[[Any, Any], Any]] = {
    "a value that others read": lambda n, x: n.own(y := n.conv(x)) + y,
    "an element of its own for every position": lambda n, x: n.conv(x) * n.map,
    "a factor that the input makes": lambda n, x: n.conv(x) * x.mean((2, 3), keepdim=True),
    "a sum behind a dropout": lambda n, x: n.drop(n.conv(x)) + n.own.shift.view(SHAPE),
}


@pytest.mark.parametrize("case", STAYS)
def test_stays(case: str) -> None:
    own = Constants(BEHIND_A_CONVOLUTION["an affine layer"])
    network = Small(STAYS[case], conv=nn.Conv2d(8, 8, 1), own=own, drop=nn.Dropout(0.5))
    network.register_parameter("map", nn.Parameter(noise(8, 8, seed=9)))
    prepared = prepare(network, "w8a8", (IMAGES,))
    assert not any(node.affine for node in prepared.graph.nodes)


def test_last_dimensions_are_no_channels_although_there_are_as_many() -> None:
    assert_stays(
        fold_channel_constants,
        """
        %x: f32[2?, 3, 8, 8] = input()
        %gain: f32[8] = constant() {target='gain'}
        %conv: f32[2?, 8, 8, 8] = conv(%x) {target='conv'}
        %mul: f32[2?, 8, 8, 8] = mul(%conv, %gain)
        return %mul
        """,
        nn.ModuleDict({"conv": nn.Conv2d(3, 8, 1)}),
    )


def frozen() -> nn.Module:
    torch.manual_seed(0)
    own = Constants(frozen_as_in_torchvision)
    return settle(Small(lambda n, x: torch.relu(n.own(n.conv(x))), conv=nn.Conv2d(8, 8, 3), own=own))


def test_it_is_as_exact_as_a_batch_norm_module() -> None:
    network, twin = frozen(), frozen()
    twin.own = nn.BatchNorm2d(8).eval()
    twin.own.load_state_dict(network.own.state_dict(), strict=False)  # type: ignore[union-attr, arg-type]
    one, two = (deploy(net, (IMAGES,), "w8a8") for net in (network, twin))
    first, second = (next(node for node in d.prepared.layers() if node.target == "conv") for d in (one, two))
    assert torch.equal(one.frozen.layer(first).codes, two.frozen.layer(second).codes)
    torch.testing.assert_close(one.frozen.layer(first).scale, two.frozen.layer(second).scale, atol=0, rtol=1e-6)


def test_calibration_corrects_through_the_constants() -> None:
    network = frozen()
    prepared = prepare(network, "w3a8", (IMAGES,))
    images = noise(32, 3, 8, 8, seed=7)
    calibrate(prepared, [(images, torch.zeros(32))], images=32)
    bias = dict(prepared.network.named_parameters())["conv.bias"]
    assert not torch.equal(bias, network.conv.bias)
    with torch.no_grad():
        mean, wanted = prepared.eval()(images).mean(0), network(images).mean(0)
    assert float((mean - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


def test_the_output_of_a_module_that_was_folded_is_found() -> None:
    prepared = prepare(frozen(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert output_of_module(prepared, "own") == "conv"


def test_other_sizes_have_the_same_constants_or_are_refused() -> None:
    larger = noise(2, 3, 12, 12, seed=2)
    prepared = prepare(frozen(), "w8a8", (IMAGES,))
    initialize(prepared, larger)
    with torch.no_grad():
        torch.testing.assert_close(prepared.eval()(larger), frozen()(larger), atol=0.02, rtol=0.1)
    by_size = Small(lambda n, x: n.conv(x) * torch.tensor(float(x.shape[2])), conv=nn.Conv2d(8, 8, 1))
    prepared = prepare(by_size.eval(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert [node.target for node in prepared.layers() if node.affine] == ["conv"]
    with pytest.raises(UserError, match="computed in another way"):
        prepared(larger)

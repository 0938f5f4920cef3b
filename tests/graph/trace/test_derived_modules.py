"""Layers of derived classes become PyTorch's layers and the steps around them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from placement import check
from torch import Tensor, fx, nn

from qkd_deploy.graph.trace.derived_modules import layer_of_call, make_plain, plain_class, plain_forward


class SameConv(nn.Conv2d):
    """TensorFlow's padding: as much as the output size needs, more of it on the right."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        stride, kernel = self.stride[0], self.kernel_size[0]
        down = max((math.ceil(height / stride) - 1) * stride + kernel - height, 0)
        right = max((math.ceil(width / stride) - 1) * stride + kernel - width, 0)
        if down > 0 or right > 0:
            x = F.pad(x, [right // 2, right - right // 2, down // 2, down - down // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Derived(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = SameConv(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.conv, self.head = SameConv(8, 8, 3, stride=2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.norm(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def test_derived_layers_run_in_integers_under_their_own_names() -> None:
    deployed = check(Derived(), (noise(3, 3, 9, 14),))
    assert deployed.prepared.layers()[0].batch_norm == "norm"
    assert list(deployed.prepared.network.state_dict()) == list(Derived().state_dict())


def test_the_plain_class_remains() -> None:
    network = Derived()
    assert plain_class(network.stem) is nn.Conv2d
    x = noise(2, 3, 8, 8)
    assert torch.equal(plain_forward(network.stem, x), F.conv2d(x, network.stem.weight, stride=2))
    make_plain(network, ["stem"])
    assert type(network.stem) is nn.Conv2d
    assert type(network.conv) is SameConv


class Proxied(fx.Tracer):
    """Gives the parameters of a network as proxies."""

    def parameter(self, network: nn.Module, path: str) -> fx.Proxy:
        self.root, self.graph = network, fx.Graph()
        return self.create_proxy("get_attr", path, (), {})


NETWORK = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(8, 8, bias=False))
WEIGHT, BIAS = (Proxied().parameter(NETWORK, f"0.{name}") for name in ("weight", "bias"))
CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str | None]] = {
    "its own options": (F.conv2d, ("x", WEIGHT, BIAS, 2, (1, 1)), {}, "0"),
    "options by name": (F.conv2d, ("x", WEIGHT), {"bias": BIAS, "stride": (2, 2), "padding": 1}, "0"),
    "no bias": (F.linear, ("x", Proxied().parameter(NETWORK, "1.weight")), {}, "1"),
    "another function": (torch.add, ("x", WEIGHT), {}, None),
    "another layer's function": (F.conv1d, ("x", WEIGHT, BIAS, 2, 1), {}, None),
    "the bias left out": (F.conv2d, ("x", WEIGHT, None, 2, 1), {}, None),
    "another stride": (F.conv2d, ("x", WEIGHT, BIAS, 1, 1), {}, None),
    "a padding in words": (F.conv2d, ("x", WEIGHT, BIAS, 2, "same"), {}, None),
    "a tensor for a weight": (F.conv2d, ("x", torch.zeros(8, 3, 3, 3), BIAS, 2, 1), {}, None),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls_that_stand_for_a_layer(case: str) -> None:
    target, args, kwargs, path = CALLS[case]
    assert layer_of_call(NETWORK, target, args, kwargs) == (None if path is None else (path, "x"))

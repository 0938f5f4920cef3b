"""Convolutions and linear layers of every geometry, with and without bias, batch norm and activation function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from placement import IMAGES, Small, check
from torch import Tensor, nn

from qkd_deploy import prepare

CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "no bias": lambda: nn.Conv2d(8, 8, 3, padding=1, bias=False),
    "bias": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "depthwise with multiplier": lambda: nn.Conv2d(8, 16, 3, padding=1, groups=8),
    "grouped": lambda: nn.Conv2d(8, 8, 3, groups=2),
    "dilated": lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    "same": lambda: nn.Conv2d(8, 8, 3, padding="same"),
    "same, even kernel": lambda: nn.Conv2d(8, 8, (4, 2), padding="same"),
    "same, dilated": lambda: nn.Conv2d(8, 8, (2, 3), padding="same", dilation=(2, 1)),
    "valid": lambda: nn.Conv2d(8, 8, 3, padding="valid"),
    "uneven strides": lambda: nn.Conv2d(8, 8, (1, 3), stride=(2, 1), padding=(0, 1)),
    "large kernel": lambda: nn.Conv2d(8, 8, 7, stride=3, padding=3),
    "one output channel": lambda: nn.Conv2d(8, 1, 1),
}


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_convolutions(geometry: str, batch_norm: bool) -> None:
    conv = CONVOLUTIONS[geometry]()
    width = conv.out_channels
    norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
    check(Small(lambda n, x: torch.relu(n.bn(n.conv(x))), width, conv=conv, bn=norm))


class Stem(nn.Module):
    """First convolutions over few channels are rewritten when exported."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.bn, self.head = conv, nn.BatchNorm2d(conv.out_channels), nn.Linear(conv.out_channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(self.conv(x))).mean((2, 3)))  # type: ignore[no-any-return]


STEMS: dict[str, tuple[nn.Conv2d, tuple[int, int]]] = {
    "3x3": (nn.Conv2d(3, 16, 3, padding=1, bias=False), (8, 8)),
    "3x3 stride 2": (nn.Conv2d(3, 16, 3, stride=2, padding=1), (8, 8)),
    "7x7 stride 2": (nn.Conv2d(3, 16, 7, stride=2, padding=3), (16, 12)),
    "7x7 stride 2, odd image": (nn.Conv2d(3, 16, 7, stride=2, padding=3), (15, 12)),
    "patches": (nn.Conv2d(3, 16, 4, stride=4), (8, 8)),
    "stride 2 without padding": (nn.Conv2d(3, 16, 3, stride=2), (8, 8)),
    "gray": (nn.Conv2d(1, 16, 5, stride=2, padding=2), (10, 10)),
    "valid": (nn.Conv2d(2, 20, 3), (6, 7)),
}


@pytest.mark.parametrize("bits", ["w8a8", "w2a2"])
@pytest.mark.parametrize("stem", STEMS)
def test_stems(stem: str, bits: str) -> None:
    conv, size = STEMS[stem]
    check(Stem(conv), (noise(3, conv.in_channels, *size),), bits, first_last_bits=int(bits[1]))


class Perceptron(nn.Module):
    def __init__(self, *norms: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8, bias=False), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm_a, self.norm_b = norms

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.a(x)))
        return self.c(torch.relu(self.norm_b(self.b(x))))  # type: ignore[no-any-return]


def test_linear_layers_with_batch_norm() -> None:
    check(Perceptron(nn.BatchNorm1d(8), nn.BatchNorm1d(8)), (noise(3, 6),))
    check(Perceptron(nn.BatchNorm1d(8, affine=False), nn.Identity()), (noise(3, 6),))


def test_batch_norm_without_statistics_stays_in_float() -> None:
    """Its result depends on the batch, so that it cannot be folded; eval at batch 1 is undefined for it."""
    account = prepare(
        Perceptron(nn.BatchNorm1d(8, track_running_stats=False), nn.Identity()), "w4a4", (noise(3, 6),)
    ).account
    assert "without running statistics" in str(account)


def test_linear_on_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            return self.c(F.relu(x + self.b(x)))  # type: ignore[no-any-return]

    model = check(Tokens(), (noise(3, 5, 6),)).model
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == ["batch", 5, 3]


def test_linear_layer_with_several_readers() -> None:
    class Readers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return torch.relu(self.b(x)) + self.c(x)  # type: ignore[no-any-return]

    check(Readers(), (noise(3, 6),))


def test_a_linear_output_that_is_read_and_returned() -> None:
    class Returned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.relu(self.a(x))
            return x, self.b(x)

    check(Returned(), (noise(3, 6),))


def test_a_convolution_as_the_output() -> None:
    """A convolution needs an output quantizer to run in integers, so that maps come out on an 8-bit grid."""

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)))  # type: ignore[no-any-return]

    assert check(Maps()).frozen.grid("b").bits == 8


class Twice(nn.Module):
    """One convolution called twice, on different tensors."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for _ in range(2):
            x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_shared_convolution(batch_norm: bool) -> None:
    deployed = check(Twice(batch_norm))
    assert len(deployed.prepared.weight_steps()) == 3
    first, second = (deployed.frozen.layer(deployed.frozen.graph.node(name)) for name in ("conv", "conv_2"))
    torch.testing.assert_close(first.codes, second.codes)
    assert deployed.prepared.activation("conv").step is not deployed.prepared.activation("conv_2").step


def test_shared_module_with_different_batch_norms() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            z = F.relu(self.a(self.conv(x))) + F.relu(self.b(self.conv(y)))
            return self.head(z.mean((2, 3)))  # type: ignore[no-any-return]

    deployed = check(Shared(), (IMAGES, noise(3, 3, 8, 8, seed=1)))
    one, two = (deployed.frozen.layer(deployed.frozen.graph.node(name)) for name in ("conv", "conv_2"))
    assert not torch.equal(one.scale, two.scale)


def test_a_module_under_two_names() -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, padding=1)
            self.b = self.a
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))  # type: ignore[no-any-return]

    bits = check(Aliased()).prepared.layer_bits
    # the first call is the network's first layer; one set of weights is as wide as its widest place
    assert [str(bits[name]) for name in ("a", "a_2", "head")] == ["w8a8", "w8a4", "w8a8"]
    assert check(Aliased(), overrides={"a": "w3a4"}).prepared.layer_bits["a_2"].weight == 3


def test_padding_of_other_kinds_stays_in_float() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    account = check(Small(lambda n, x: torch.relu(n.conv(x)), conv=conv), integer=False).prepared.account
    assert "padding mode 'reflect'" in str(account)


def test_zero_padding_of_signed_codes_is_zero() -> None:
    """The pad value is the zero point: a network of a single padded convolution shows it at its corners."""
    check(Small(lambda n, x: n.conv(n.first(x)), first=nn.Conv2d(8, 8, 1), conv=nn.Conv2d(8, 8, 3, padding=2)))


class Functional(nn.Module):
    """Layers as functions of parameters and buffers of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.bias = nn.Parameter(noise(8, 2, 3, 3, seed=1)), nn.Parameter(noise(8, seed=2))
        self.matrix = nn.Parameter(noise(8, 8, seed=3))
        self.register_buffer("blur", torch.ones(8, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, self.bias, stride=1, padding=1, groups=4))
        x = F.conv2d(x, self.blur, padding="same", groups=8)
        return F.linear(x.permute(0, 2, 3, 1), self.matrix).permute(0, 3, 1, 2)


def test_layers_written_as_functions() -> None:
    deployed = check(Small(lambda net, x: net.inner(x), inner=Functional()), idle_steps=1)
    targets = [str(node.target) for node in deployed.prepared.layers()]
    assert targets == ["stem", "inner.conv2d", "inner.conv2d_1", "inner.linear", "second", "head"]
    network = deployed.prepared.network
    assert network.get_submodule("inner.conv2d").weight is network.inner.kernel
    assert not any("conv2d_1" in name for name in network.state_dict())

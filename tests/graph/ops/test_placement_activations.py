"""Activation functions and dropout in every spelling that PyTorch has for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, finish
from placement import IMAGES, Small, check
from torch import Tensor, nn

from qkd_deploy import UserError, prepare


def behind_conv(activation: Callable[[Any, Any], Any], **modules: nn.Module) -> Small:
    """The activation function on the output of a convolution with batch norm."""
    conv, norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
    return Small(lambda n, x: activation(n, n.bn1(n.conv1(x))), 8, conv1=conv, bn1=norm, **modules)


RELU = {
    "module": behind_conv(lambda n, x: n.act(x), act=nn.ReLU()),
    "module in place": behind_conv(lambda n, x: n.act(x), act=nn.ReLU(inplace=True)),
    "F.relu": behind_conv(lambda n, x: F.relu(x)),
    "F.relu in place": behind_conv(lambda n, x: F.relu(x, inplace=True)),
    "F.relu_": behind_conv(lambda n, x: F.relu_(x)),
    "torch.relu": behind_conv(lambda n, x: torch.relu(x)),
    "torch.relu_": behind_conv(lambda n, x: torch.relu_(x)),
    "method": behind_conv(lambda n, x: x.relu()),
    "method in place": behind_conv(lambda n, x: x.relu_()),
    "clamp(min=0)": behind_conv(lambda n, x: x.clamp(min=0)),
    "clamp_min": behind_conv(lambda n, x: x.clamp_min(0)),
    "clamp_min_": behind_conv(lambda n, x: x.clamp_min_(0.0)),
    "torch.clamp_min": behind_conv(lambda n, x: torch.clamp_min(x, min=0)),
    "torch.clamp": behind_conv(lambda n, x: torch.clamp(x, 0)),
    "torch.clip": behind_conv(lambda n, x: torch.clip(x, min=0.0)),
}
CAPPED = {
    "nn.ReLU6": behind_conv(lambda n, x: n.act(x), act=nn.ReLU6()),
    "F.relu6": behind_conv(lambda n, x: F.relu6(x, inplace=True)),
    "hardtanh module": behind_conv(lambda n, x: n.act(x), act=nn.Hardtanh(0.0, 6.0)),
    "F.hardtanh": behind_conv(lambda n, x: F.hardtanh(x, 0.0, 6.0)),
    "clamp": behind_conv(lambda n, x: x.clamp(0, 6)),
    "clamp_": behind_conv(lambda n, x: x.clamp_(0, 6)),
    "torch.clamp": behind_conv(lambda n, x: torch.clamp(x, min=0, max=6)),
    "relu of clamp": behind_conv(lambda n, x: torch.relu(x.clamp(-2, 6))),
}
SIGNED = {
    "nn.Hardtanh": behind_conv(lambda n, x: n.act(x), act=nn.Hardtanh()),
    "F.hardtanh": behind_conv(lambda n, x: F.hardtanh(x)),
    "clamp": behind_conv(lambda n, x: x.clamp(-0.7, 1.1)),
    "negative part": behind_conv(lambda n, x: x.clamp(max=0)),
    "clamp_max": behind_conv(lambda n, x: torch.clamp_max(x.clamp_max(2.0), 0.5)),
    "none": behind_conv(lambda n, x: x),
}


@pytest.mark.parametrize("spelling", RELU)
def test_relu_is_the_lower_bound_of_the_codes(spelling: str) -> None:
    frozen = check(RELU[spelling]).frozen
    grid = frozen.grid("conv1")
    assert (grid.lo, grid.hi, grid.zero_point) == (0, 15, 0)


@pytest.mark.parametrize("spelling", CAPPED)
def test_relu6_is_both_bounds_of_the_codes(spelling: str) -> None:
    deployed = check(CAPPED[spelling], (IMAGES * 20,))
    grid = deployed.frozen.grid("conv1")
    assert grid.lo == 0
    assert grid.hi * float(grid.scale) < 6 + float(grid.scale) / 2
    assert not {"Relu", "Clip"} & {n.op_type for n in deployed.model.graph.node if n.output[0].endswith(".clipped")}


@pytest.mark.parametrize("spelling", SIGNED)
def test_signed_ranges_keep_their_middle_zero_point(spelling: str) -> None:
    frozen = check(SIGNED[spelling]).frozen
    assert frozen.grid("conv1").zero_point == 8


def test_an_upper_bound_within_the_grid_narrows_the_codes() -> None:
    model = behind_conv(lambda n, x: F.relu6(x))
    prepared = check(model, (IMAGES * 20,)).prepared
    prepared.activation("conv1").set_scale(1.0)
    deployed = finish(prepared)
    assert deployed.frozen.grid("conv1").hi == 6
    assert_same_codes(deployed, (IMAGES * 20,))


class InPlaceAliases(nn.Module):
    """The tensor is read again after an operation overwrote it."""

    def __init__(self, overwrite: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.overwrite = overwrite

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        z = self.conv2(self.overwrite(y))
        return self.head((y + z).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("overwrite", [F.relu_, nn.ReLU(inplace=True), lambda y: y.relu_(), lambda y: y.clamp_(0, 6)])
def test_readers_behind_an_in_place_operation_see_its_result(overwrite: Callable[[Tensor], Tensor]) -> None:
    check(InPlaceAliases(overwrite))


def test_in_place_addition_is_seen_by_later_readers() -> None:
    def middle(n: Any, x: Tensor) -> Tensor:
        y = n.conv1(x)
        y += x
        return torch.relu(y)

    check(Small(middle, conv1=nn.Conv2d(8, 8, 1)))


def test_one_relu_module_may_serve_many_tensors() -> None:
    check(
        Small(
            lambda n, x: n.act(n.conv2(n.act(n.conv1(x)))),
            act=nn.ReLU(),
            conv1=nn.Conv2d(8, 8, 1),
            conv2=nn.Conv2d(8, 8, 3, stride=2),
        )
    )


class MaskedByFlag(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x * torch.bernoulli(torch.full_like(x, 0.8)) / 0.8
        return x


class DropPath(nn.Module):
    """Stochastic depth per sample, as in common model libraries."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.5)
        return x.div(0.5) * keep


DROPOUT = {
    "nn.Dropout": Small(lambda n, x: n.drop(x), drop=nn.Dropout(0.2)),
    "nn.Dropout in place": behind_conv(lambda n, x: n.drop(x), drop=nn.Dropout(0.2, inplace=True)),
    "nn.Dropout2d": Small(lambda n, x: n.drop(x), drop=nn.Dropout2d(0.2)),
    "F.dropout": Small(lambda n, x: F.dropout(x, 0.2, n.training)),
    "F.dropout with keyword": Small(lambda n, x: F.dropout(x, p=0.2, training=n.training)),
    "F.dropout2d": Small(lambda n, x: F.dropout2d(x, 0.2, training=n.training)),
    "if self.training": Small(lambda n, x: n.drop(x), drop=MaskedByFlag()),
    "DropPath": Small(lambda n, x: n.conv1(x) + n.drop(x), conv1=nn.Conv2d(8, 8, 1), drop=DropPath()),
}


@pytest.mark.parametrize("spelling", DROPOUT)
def test_dropout_is_active_in_training_and_gone_in_the_integer_model(spelling: str) -> None:
    torch.manual_seed(0)
    prepared = check(DROPOUT[spelling]).prepared
    prepared.train()
    assert not all(torch.equal(prepared(IMAGES), prepared(IMAGES)) for _ in range(4))
    prepared.eval()
    assert torch.equal(prepared(IMAGES), prepared(IMAGES))


def test_a_network_that_reads_the_flag_outside_a_module_is_refused() -> None:
    model = Small(lambda n, x: x * 2 if n.training else x)
    with pytest.raises(UserError, match="move that code into a module of its own"):
        prepare(model, "w4a4", (IMAGES,))

"""Ways out where integers would overflow, sizes do not fit, or a function is replaced in vain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from to_a_file import goes_to_a_file
from torch import Tensor, nn
from ways import Way, follow

import qkd_deploy as qkd
from qkd_deploy.graph.prepared import PreparedModel


def images(height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(4, 1, height, width, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """A convolution, a function, and a convolution behind it."""

    def __init__(self, middle: nn.Module, last: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Conv2d(1, 4, 1), middle, last or nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.first(x)))


class Products(nn.Module):
    """Sums over all places of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2) @ x.flatten(2).mT


class Wide(nn.Module):
    """A layer whose sums of products are too long where all weights are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Linear(140_000, 1, bias=False), nn.Linear(1, 2)
        self.wide.weight.data.fill_(0.5)

    def forward(self, x: Tensor) -> Any:
        return self.last(F.relu(self.wide(x)))


def ready(network: nn.Module, *inputs: Tensor, **settings: Any) -> PreparedModel:
    model = qkd.prepare(network.eval(), "w8a8", inputs, **settings)
    qkd.initialize(model, *inputs)
    return model


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.last = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.a(x) + self.b(x))


def with_lost_scale() -> PreparedModel:
    """An operand is nothing beside the other, whose odd codes are ties of the sum."""
    model = ready(Sum(), images())
    for key, scale in (("a", 0.01), ("b", 1e-7), ("add", 0.02)):
        model.activation(key).set_scale(scale)
    return model


def set_anew(set_scales: Callable[[PreparedModel], object]) -> None:
    model = with_lost_scale()
    set_scales(model)
    qkd.freeze(model)


def products(height: int, **settings: Any) -> None:
    x = images(height, 256)
    goes_to_a_file(Around(Products(), nn.Linear(4, 4)), x[:1], **settings)


class Positions(nn.Module):
    """Knows every place: at other sizes it adds something else."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 4, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.places if x.shape[2:] == (8, 8) else x * F.interpolate(self.places, size=x.shape[2:])


class Pairs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 4, 4, x.shape[2] // 4, x.shape[3]).mean(2)


ROW = torch.rand(2, 140_000)
SIXTEEN = (torch.randn(4, 1, 16, 8),)

WAYS: dict[str, Way] = {
    "a scale that is lost": Way(
        lambda path: qkd.freeze(with_lost_scale()),
        "set the scales anew with initialize(model, batch) or calibrate(model, data)",
        lambda path: [
            set_anew(lambda model: qkd.initialize(model, images())),
            set_anew(lambda model: qkd.calibrate(model, images())),
        ],
    ),
    "sums of a layer that overflow": Way(
        lambda path: goes_to_a_file(Wide(), ROW),
        "could overflow; keep that module in float: overrides={'wide': 'float'}, or --float wide on the command line",
        lambda path: goes_to_a_file(Wide(), ROW, overrides={"wide": "float"}),
    ),
    "sums of a product that overflow": Way(
        lambda path: products(512),
        "let it sum fewer, or keep that module in float: overrides={'middle': 'float'}, or --float middle on the",
        lambda path: [products(32), products(512, overrides={"middle": "float"})],
    ),
    "a size that the network does not take": Way(
        lambda path: ready(Around(Pairs()), images())(images(7)),
        "does not take 1 x 7 x 8: ",
        lambda path: ready(Around(Pairs()), images())(images(8)),
    ),
    "a size at which it is another network": Way(
        lambda path: ready(Around(Positions()), images())(images(16)),
        "prepare it with an example of 1 x 16 x 8, or give it inputs of 1 x 8 x 8",
        lambda path: [
            ready(Around(Positions()), images(16))(images(16)),
            ready(Around(Positions()), images())(images(8)),
        ],
    ),
}

REPLACED: dict[str, tuple[dict[str, str], str, list[dict[str, str]]]] = {
    "by itself": (
        {"silu": "silu"},
        "name another function, or leave it out",
        [{"silu": "relu6"}, {}],
    ),
    "in a module that has none": (
        {"midle:silu": "relu"},
        "no silu is in a module of that path; did you mean 'middle'?",
        [{"middle:silu": "relu"}],
    ),
    "in a module of quite another name": (
        {"xyz:silu": "relu"},
        "there is one in middle",
        [{"middle:silu": "relu"}],
    ),
    "that is not there": (
        {"gelu": "relu"},
        "the network computes no gelu; it has silu (1)",
        [{"silu": "relu"}],
    ),
    "without a pattern": ({":silu": "relu"}, "leave the colon out", [{"silu": "relu"}]),
    "of no known name": (
        {"sillu": "relu"},
        "did you mean 'silu'? choose one of relu, ",
        [{"silu": "relu"}],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)


@pytest.mark.parametrize("case", REPLACED)
def test_a_function_is_replaced(case: str) -> None:
    wrong, said, right = REPLACED[case]
    network = Around(nn.SiLU())
    with pytest.raises(qkd.UserError) as refused:
        qkd.prepare(network, "w8a8", images(), replace=wrong)
    assert said in str(refused.value)
    for rules in right:
        replaced = goes_to_a_file(network, images(), replace=rules).account.replaced
        assert list(replaced.values()) == [1] * len(rules)

"""Replaced activation functions: the graph is the one of a network that was written with the new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy import UserError, initialize, prepare
from qkd_deploy.graph.passes.replace_activations import TORCH_FUNCTIONS
from qkd_deploy.graph.replacements import FUNCTIONS

IMAGES = torch.randn(2, 3, 6, 6)
Function = Callable[[Tensor], Tensor]
SILU: dict[str, Function] = {
    "module": nn.SiLU(),
    "in-place module": nn.SiLU(inplace=True),
    "function": F.silu,
    "in-place function": lambda x: F.silu(x, inplace=True),
    "product": lambda x: x * x.sigmoid(),
    "turned product": lambda x: torch.mul(torch.sigmoid(x), x),
    "in-place product": lambda x: x.mul_(x.sigmoid()),
}
SPELLINGS: dict[str, tuple[Function, ...]] = {
    "relu": (nn.ReLU(), F.relu, torch.relu, lambda x: x.clamp_min(0), lambda x: x.relu_()),
    "relu6": (nn.ReLU6(), F.relu6, nn.Hardtanh(0, 6)),
    "leaky_relu": (nn.LeakyReLU(0.2), F.leaky_relu, nn.PReLU()),
    "hardswish": (nn.Hardswish(), F.hardswish, lambda x: x * F.hardsigmoid(x)),
    "gelu": (nn.GELU(), nn.GELU("tanh"), F.gelu),
    "mish": (nn.Mish(), F.mish),
    "elu": (nn.ELU(), F.elu),
    "selu": (nn.SELU(), F.selu),
    "celu": (nn.CELU(), F.celu),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid, lambda x: x.sigmoid_()),
    "hardsigmoid": (nn.Hardsigmoid(), F.hardsigmoid, lambda x: F.relu6(x + 3) / 6),
    "tanh": (nn.Tanh(), torch.tanh, lambda x: x.tanh()),
    "softplus": (nn.Softplus(), F.softplus),
}
CASES = [(name, function) for name, functions in SPELLINGS.items() for function in functions]


class Between(nn.Module):
    """A function between two convolutions; modules are children, so that paths are the same for all."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.one, self.two, self.function = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.function(self.one(x)))  # type: ignore[no-any-return]


def prepared_text(function: Function, replace: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """The kinds and ranges of all nodes, and what was replaced."""
    prepared = prepare(Between(function).eval(), "w4a4", IMAGES, replace=replace)
    return [f"{node.kind} {node.clip}" for node in prepared.graph.nodes], dict(prepared.account.replaced)


def test_every_function_has_a_name_and_an_implementation() -> None:
    assert tuple(TORCH_FUNCTIONS) == FUNCTIONS
    assert {*SPELLINGS, "silu"} == set(FUNCTIONS)


@pytest.mark.parametrize("spelling", SILU)
@pytest.mark.parametrize(("new", "function"), [("relu6", F.relu6), ("hardswish", F.hardswish)])
def test_silu_is_found_however_it_is_written(spelling: str, new: str, function: Function) -> None:
    written, _ = prepared_text(function, {})
    assert prepared_text(SILU[spelling], {"silu": new}) == (written, {f"silu={new}": 1})


@pytest.mark.parametrize(("name", "function"), CASES)
def test_every_function_is_found_however_it_is_written(name: str, function: Function) -> None:
    written, _ = prepared_text(nn.SiLU(), {})
    assert prepared_text(function, {name: "silu"}) == (written, {f"{name}=silu": 1})


@pytest.mark.parametrize("new", FUNCTIONS)
def test_every_function_can_take_the_place_of_another(new: str) -> None:
    old = "mish" if new != "mish" else "gelu"
    network, written = Between(TORCH_FUNCTIONS[old]).eval(), Between(TORCH_FUNCTIONS[new]).eval()
    written.load_state_dict(network.state_dict())
    models = [prepare(network, "w8a8", IMAGES, replace={old: new}), prepare(written, "w8a8", IMAGES)]
    for model in models:
        initialize(model, IMAGES)
    with torch.no_grad():
        assert torch.equal(models[0](IMAGES), models[1](IMAGES))


class Excited(nn.Module):
    """SiLUs in two branches, one of them as a product, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU())
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = self.body(x)
        opened = torch.sigmoid(y)
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True))), self.gate(opened * y) + opened


def replaced(rules: Mapping[str, str]) -> dict[str, int]:
    return dict(prepare(Excited().eval(), "w4a4", IMAGES, replace=rules).account.replaced)


def test_patterns_choose_modules_and_the_last_match_wins() -> None:
    assert replaced({"silu": "relu6"}) == {"silu=relu6": 3}
    assert replaced({"stem.*:silu": "relu6"}) == {"silu=relu6": 1}
    assert replaced({"silu": "relu6", "stem.*:silu": "hardswish"}) == {"silu=hardswish": 1, "silu=relu6": 2}
    assert replaced({"silu": "relu6", "stem.1:silu": "silu"}) == {"silu=relu6": 2}


def test_the_gate_of_a_silu_is_no_sigmoid_of_its_own() -> None:
    assert replaced({"sigmoid": "hardsigmoid"}) == {"sigmoid=hardsigmoid": 1}
    both = prepare(Excited().eval(), "w4a4", IMAGES, replace={"silu": "relu", "sigmoid": "hardsigmoid"})
    assert dict(both.account.replaced) == {"silu=relu": 3, "sigmoid=hardsigmoid": 1}
    assert "sigmoid" in {node.kind for node in both.graph.nodes}  # the one that the network adds, too


def test_the_account_says_what_was_replaced_and_the_network_is_left_alone() -> None:
    network = Excited().eval()
    prepared = prepare(network, "w4a4", IMAGES, replace={"silu": "relu6"})
    assert "Replaced: silu=relu6 (3)." in str(prepared.account).splitlines()
    assert isinstance(network.stem[1], nn.SiLU) and isinstance(prepared.network.stem[1], nn.SiLU)  # type: ignore[index,union-attr]
    assert "Replaced" not in str(prepare(network, "w4a4", IMAGES).account)


def test_parts_of_other_functions_stay() -> None:
    parts = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8), nn.GLU(1), nn.Conv2d(4, 2, 1)).eval()
    with pytest.raises(UserError, match="the network computes no relu; it has no activation function"):
        prepare(parts, "w4a4", IMAGES, replace={"relu": "relu6"})
    with pytest.raises(UserError, match="the network computes no sigmoid"):
        prepare(parts, "w4a4", IMAGES, replace={"sigmoid": "hardsigmoid"})


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        (
            {"sillu": "relu6"},
            "the replacement 'sillu=relu6' names 'sillu', which is no function that it knows; did you ",
        ),
        ({"silu": "rellu"}, "names 'rellu', which is no function that it knows; did you mean 'relu'?"),
        (
            {"gelu": "relu"},
            r"gelu=relu matches nothing: the network computes no gelu; it has silu \(3\), sigmoid \(1\)",
        ),
        ({"stam.*:silu": "relu"}, r"stam\.\*:silu=relu matches nothing: .* that path; did you mean 'stem.1'\?"),
        ({"silu": "relu", "head:silu": "relu6"}, "head:silu=relu6 matches nothing"),
        ({"silu": "silu"}, "silu=silu changes nothing"),
        ({":silu": "relu"}, "has no pattern before its colon"),
        ({"silu": 6}, "must map functions to functions"),
    ],
)
def test_rules_that_do_nothing_are_refused(rules: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        replaced(rules)
    assert "\n" not in str(caught.value)

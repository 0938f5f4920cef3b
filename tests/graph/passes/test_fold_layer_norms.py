"""Gains and offsets of layer norms in the layers behind them: where they move, and that they are trained and exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deployment import assert_same_codes, deploy, finish, noise
from placement import unquantized
from rewriting import assert_becomes, assert_stays
from torch import Tensor, nn

from qkd_deploy import UserError, create_model, freeze, initialize, prepare
from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import layer_parameters
from qkd_deploy.graph.passes.fold_layer_norms import fold_layer_norms
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.costs import weight_layers
from qkd_deploy.training.methods.features import FeatureStudent

TOKENS = noise(3, 6, 12, seed=1)


class Net(nn.Module):
    """Linear, a layer norm far from neutral, ``middle``, linear."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], **norm: Any) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(12, 12), nn.LayerNorm(12, **norm)
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12, bias=False)
        self.last, self.dropout = nn.Linear(12, 5), nn.Dropout(0.5)
        for i, parameter in enumerate(self.norm.parameters()):
            parameter.data += noise(12, seed=i)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(self, self.norm(self.first(x)))))  # type: ignore[no-any-return]


def norm_of(prepared: PreparedModel) -> Node:
    (node,) = [node for node in prepared.graph.nodes if node.kind == "layer_norm"]
    return node


MOVED: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Any]]] = {
    "one layer": (lambda n, x: n.one(x), {}),
    "two layers, one without a bias": (lambda n, x: n.one(x) * n.two(x), {}),
    "without an offset": (lambda n, x: n.two(x), {"bias": False}),
    "rows that move": (lambda n, x: n.one(x.reshape(-1, 2, 3, 12).transpose(1, 2)[:, 0]), {}),
}
STAYS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Any]]] = {
    "read by a sum": (lambda n, x: x + n.one(x), {}),
    "a layer that is called twice": (lambda n, x: n.one(n.one(x)), {}),
    "the last layer": (lambda n, x: x.mean(1), {}),
    "another dimension": (lambda n, x: n.one(x.reshape(-1, 12, 6).mT.reshape(-1, 6, 12)), {}),
    "a dropout": (lambda n, x: n.one(n.dropout(x)), {}),
}


@pytest.mark.parametrize("case", MOVED)
def test_a_gain_moves_into(case: str) -> None:
    middle, options = MOVED[case]
    net = Net(middle, **options).eval()
    deployed = deploy(net, (TOKENS,), "w8a8")
    assert norm_of(deployed.prepared).args[1:] == (None, None)
    assert not [node for node in deployed.prepared.graph.nodes if node.name.startswith("norm.")]
    with torch.no_grad():
        torch.testing.assert_close(unquantized(deployed.prepared, TOKENS), net(TOKENS), atol=1e-5, rtol=1e-4)
    assert not assert_same_codes(deployed, (TOKENS,))
    assert [*deployed.prepared.network.state_dict()] == [*net.state_dict()]


@pytest.mark.parametrize("case", STAYS)
def test_a_gain_stays_in_front_of(case: str) -> None:
    middle, options = STAYS[case]
    net = Net(middle, **options).eval()
    deployed = deploy(net, (TOKENS,), "w8a8")
    assert all(ref is not None for ref in norm_of(deployed.prepared).args[1:])
    assert not any(node.gain or node.offset for node in deployed.prepared.graph.nodes)
    assert not assert_same_codes(deployed, (TOKENS,))


@pytest.mark.parametrize("options", [{"placement": "paper"}, {"bits": "w4a32"}])
def test_a_gain_stays_where_the_norm_is_no_integer_tensor(options: dict[str, Any]) -> None:
    prepared = prepare(Net(MOVED["one layer"][0]).eval(), options.pop("bits", "w4a4"), TOKENS, **options)
    assert all(ref is not None for ref in norm_of(prepared).args[1:])


def test_weights_are_quantized_with_their_gain() -> None:
    prepared = prepare(Net(MOVED["one layer"][0]).eval(), "w4a4", TOKENS)
    initialize(prepared, TOKENS)
    node = prepared.graph.node("one")
    network: Any = prepared.network
    folded = prepared.folded(node)
    exact = network.one.weight * network.norm.weight
    assert float((folded.weight() - exact).abs().max()) <= float(prepared.weight(node).scale().max()) * 0.51
    bias = network.one.bias + network.one.weight @ network.norm.bias
    torch.testing.assert_close(folded.real_bias(), bias.detach(), atol=1e-2, rtol=1e-3)


def test_gain_and_offset_are_trained_and_stay_exact() -> None:
    prepared = prepare(Net(MOVED["two layers, one without a bias"][0]), "w4a4", TOKENS).train()
    initialize(prepared, TOKENS)
    network: Any = prepared.network
    before = [parameter.detach().clone() for parameter in network.norm.parameters()]
    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        prepared(noise(8, 6, 12, seed=step)).square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.norm.parameters())
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, network.norm.parameters(), strict=True))
    assert not assert_same_codes(finish(prepared.eval()), (TOKENS,))


def test_a_gain_stays_out_of_weights_with_fewer_bits_than_their_input() -> None:
    net = Net(MOVED["one layer"][0]).eval()
    deployed = deploy(net, (TOKENS,), "w4a8")
    node, (_, gain, offset) = deployed.prepared.graph.node("one"), norm_of(deployed.prepared).args
    assert (node.gain, node.offset) == (None, "norm.bias") and gain is not None and offset is None
    with torch.no_grad():
        torch.testing.assert_close(unquantized(deployed.prepared, TOKENS), net(TOKENS), atol=1e-5, rtol=1e-4)
    assert not assert_same_codes(deployed, (TOKENS,))


def test_a_folded_offset_is_added_in_one_order_and_precision() -> None:
    prepared = prepare(Net(MOVED["one layer"][0]).eval(), "w8a8", TOKENS)
    initialize(prepared, TOKENS)
    network: Any = prepared.network
    weight, bias = network.one.weight.double(), network.one.bias.double()
    total = torch.zeros(12, dtype=torch.float64)
    for column, offset in zip(weight.unbind(1), network.norm.bias.double(), strict=True):
        total = total + column * offset
    _, got = layer_parameters(prepared.network, prepared.graph.node("one"), exact=True)
    assert got is not None and torch.equal(got, bias + total)
    plain = freeze(prepared)
    with torch.autocast("cpu", torch.bfloat16):
        under = freeze(prepared)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, under.state_dict()[name]), name


def test_layers_with_a_gain_count_in_costs() -> None:
    prepared = prepare(Net(MOVED["one layer"][0]).eval(), "w8a8", TOKENS)
    assert {*weight_layers(prepared)} == {"first", "one", "last"}


def test_features_behind_such_a_norm_are_refused() -> None:
    prepared = prepare(Net(MOVED["one layer"][0]), "w4a4", TOKENS)
    initialize(prepared, TOKENS)
    with pytest.raises(UserError, match=r"gain and offset of 'norm' have moved"):
        FeatureStudent(prepared, "norm", torch.Size([12]), TOKENS)
    FeatureStudent(prepared, "first", torch.Size([12]), TOKENS)


def test_features_of_which_only_a_part_is_computed_are_refused() -> None:
    options = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2}
    images = noise(2, 3, 32, 32)
    prepared = prepare(create_model("vit_tiny", 10, 3, options).eval(), "w8a8", images)
    initialize(prepared, images)
    for point in ("blocks.1", "blocks.1.mlp.fc2", "norm"):
        with pytest.raises(UserError, match="only the positions that are read"):
            FeatureStudent(prepared, point, torch.Size([17]), images)
    student = FeatureStudent(prepared, "blocks.0", torch.Size([17]), images)
    assert prepared.graph.node(student._node).name == "blocks.0.add_2"
    FeatureStudent(prepared, "", torch.Size([24]), images)


LAYERS = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)})
NORM = """
        %x: f32[2?, 6, 4] = input()
        %gain: f32[4] = constant() {target='norm.weight'}
        %offset: f32[4] = constant() {target='norm.bias'}
        %norm: f32[2?, 6, 4] = layer_norm(%x, %gain, %offset, eps=1e-05)
        %one: f32[2?, 6, 4] = linear(%norm) {target='one'}
        %rows: f32[2?, 1, 4] = slice(%norm, ranges=((1, 0, 1, 1),))
        %two: f32[2?, 1, 4] = linear(%rows) {target='two'}
        return (%one, %two)
        """


def test_gain_and_offset_become_the_layers_own() -> None:
    assert_becomes(
        fold_layer_norms,
        NORM,
        """
        %x: f32[2?, 6, 4] = input()
        %norm: f32[2?, 6, 4] = layer_norm(%x, None, None, eps=1e-05)
        %one: f32[2?, 6, 4] = linear(%norm) {target='one', gain='norm.weight', offset='norm.bias'}
        %rows: f32[2?, 1, 4] = slice(%norm, ranges=((1, 0, 1, 1),))
        %two: f32[2?, 1, 4] = linear(%rows) {target='two', gain='norm.weight', offset='norm.bias'}
        return (%one, %two)
        """,
        LAYERS,
        bits={"one": BitWidths(4, 4), "two": BitWidths(8, 8)},
    )


def test_weights_of_fewer_bits_than_their_input_take_the_offset_alone() -> None:
    assert_becomes(
        fold_layer_norms,
        NORM,
        """
        %x: f32[2?, 6, 4] = input()
        %gain: f32[4] = constant() {target='norm.weight'}
        %norm: f32[2?, 6, 4] = layer_norm(%x, %gain, None, eps=1e-05)
        %one: f32[2?, 6, 4] = linear(%norm) {target='one', offset='norm.bias'}
        %rows: f32[2?, 1, 4] = slice(%norm, ranges=((1, 0, 1, 1),))
        %two: f32[2?, 1, 4] = linear(%rows) {target='two', offset='norm.bias'}
        return (%one, %two)
        """,
        LAYERS,
        bits={"one": BitWidths(2, 4), "two": BitWidths(4, 4)},
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(%one, %two)", "(%one, %two, %norm)"),
        ("linear(%norm)", "sigmoid(%norm)"),
        ("target='two'", "target='one'"),
        ("f32[4] = constant()", "f32[4] = reshape(%x)"),
        ("((1, 0, 1, 1),)", "((2, 0, 1, 1),)"),
    ],
)
def test_a_norm_that_anything_else_reads_keeps_its_parameters(old: str, new: str) -> None:
    assert_stays(fold_layer_norms, NORM.replace(old, new), LAYERS)


def test_what_the_last_layer_reads_is_a_feature_and_stays() -> None:
    assert_stays(fold_layer_norms, NORM, LAYERS, last={"two"})

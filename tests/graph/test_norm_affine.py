"""Gains and offsets of layer norms in the layers behind them: where they move, and that they are trained and exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deployment import assert_same_codes, deploy, finish, noise
from placement import unquantized
from torch import Tensor, nn

from qkd_deploy import UserError, initialize, prepare
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.prepare import PreparedModel
from qkd_deploy.training.features import FeatureStudent

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
    prepared = prepare(Net(MOVED["one layer"][0]).eval(), "w4a8", TOKENS)
    initialize(prepared, TOKENS)
    node = prepared.graph.node("one")
    network: Any = prepared.network
    folded = prepared.folded(node)
    exact = network.one.weight * network.norm.weight
    assert float((folded.weight() - exact).abs().max()) <= float(prepared.weight(node).scale()) * 0.51
    bias = network.one.bias + network.one.weight @ network.norm.bias
    torch.testing.assert_close(folded.real_bias(), bias.detach(), atol=1e-3, rtol=1e-3)


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


def test_features_behind_such_a_norm_are_refused() -> None:
    prepared = prepare(Net(MOVED["one layer"][0]), "w4a4", TOKENS)
    initialize(prepared, TOKENS)
    with pytest.raises(UserError, match=r"gain and offset of 'norm' have moved"):
        FeatureStudent(prepared, "norm", 12, TOKENS)
    FeatureStudent(prepared, "first", 12, TOKENS)

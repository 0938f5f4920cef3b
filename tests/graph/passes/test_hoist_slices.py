"""Rows that nobody reads are not computed: where slices move to, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, deploy, noise
from placement import unquantized
from rewriting import assert_becomes, assert_stays
from torch import Tensor, nn

from qkd_deploy import create_model, initialize, prepare
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.passes.hoist_slices import hoist_slices

TOKENS = noise(3, 6, 12, seed=1)
Middle = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """A linear layer on tokens, ``middle``, a linear layer."""

    def __init__(self, middle: Middle, width: int = 12) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(width, 5)
        self.second, self.rows, self.bn = nn.Linear(12, 12), nn.LayerNorm(12), nn.BatchNorm1d(6)
        self.dropout, self.whole = nn.Dropout(0.1), nn.Dropout1d(0.1)
        self.gate = nn.Parameter(noise(1, 6, 1, seed=2))
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self, self.first(x)))  # type: ignore[no-any-return]


def check(net: nn.Module, x: Tensor) -> dict[str, Node]:
    """Values, codes; returns the nodes by name."""
    net.eval()
    deployed = deploy(net, (x,), "w8a8")
    with torch.no_grad():
        torch.testing.assert_close(unquantized(deployed.prepared, x), net(x), atol=1e-5, rtol=1e-4)
    assert not assert_same_codes(deployed, (x,)) and not assert_same_codes(deployed, (x[:1],))
    return {node.name: node for node in deployed.prepared.graph.nodes}


MOVED: dict[str, Middle] = {
    "a linear layer": lambda n, x: n.inner(x)[:, 0],
    "a step": lambda n, x: n.inner(x)[:, 1:6:2],
    "a norm": lambda n, x: n.rows(n.inner(x))[:, -1],
    "functions": lambda n, x: F.gelu(torch.sigmoid(F.leaky_relu(torch.tanh(n.inner(x)))) * 2)[:, 2:4],
    "a sum with a constant of every row": lambda n, x: (n.inner(x) + n.gate)[:, 1],
    "a residual": lambda n, x: (x + n.inner(F.silu(n.second(x))))[:, 0],
    "a concatenation of channels": lambda n, x: torch.cat([n.second(x), n.inner(x)], -1)[:, 0],
    "a reshape": lambda n, x: n.inner(x).reshape(-1, 6, 3, 4)[:, 5].flatten(1),
    "a transposition": lambda n, x: n.inner(x).mT[..., 3],
    "a dropout": lambda n, x: n.dropout(n.inner(x))[:, 0],
    "rows of a product": lambda n, x: (n.inner(x) @ x.mT @ x)[:, 1],
    "columns of a product": lambda n, x: (x.mT @ n.inner(x))[..., 3:4].mT[:, 0],
    "attention": lambda n, x: F.scaled_dot_product_attention(n.inner(x), x, n.second(x))[:, 0],
    "equal slices": lambda n, x: n.rows(y := n.inner(x))[:, 0] + y[:, 0],
    "a softmax": lambda n, x: (n.inner(x).softmax(-1) * 4)[:, 0],
}
STAYS: dict[str, Middle] = {
    "of channels": lambda n, x: torch.cat([n.inner(x)[..., 3:], x[..., :3]], -1),
    "different slices": lambda n, x: (y := n.inner(x))[:, 0] + y[:, 1],
    "read whole": lambda n, x: (y := n.inner(x)) + y[:, :1],
    "a dropout of channels": lambda n, x: n.whole(n.inner(x))[:, 0],
    "batch statistics": lambda n, x: n.bn(n.inner(x))[:, 0],
}


@pytest.mark.parametrize("case", MOVED)
def test_slices_move_in_front_of(case: str) -> None:
    nodes = check(Net(MOVED[case], 24 if case == "a concatenation of channels" else 12), TOKENS)
    expected = {"a step": 3, "functions": 2, "columns of a product": 6}.get(case, 1)
    assert nodes["inner"].sizes[1] == expected


@pytest.mark.parametrize("case", STAYS)
def test_slices_stay(case: str) -> None:
    net = Net(STAYS[case])
    nodes = {node.name: node for node in prepare(net.eval(), "w8a8", TOKENS).graph.nodes}
    assert nodes["inner"].sizes[1] == 6
    if case != "batch statistics":  # a batch norm over tokens is an island of float
        check(net, TOKENS)


def test_a_batch_norm_behind_a_linear_layer_sees_all_rows() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(12, 12, bias=False), nn.BatchNorm1d(12), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.first(x))[:, :6])  # type: ignore[no-any-return]

    prepared = prepare(Rows(), "w8a8", noise(8, 12))
    initialize(prepared, noise(8, 12))
    prepared.train()(noise(8, 12))
    assert all(node.sizes[-1] == 12 for node in prepared.graph.nodes if node.name == "first")


def test_the_last_block_of_a_vision_transformer_computes_one_token() -> None:
    options = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2}
    net = create_model("vit_tiny", 10, 3, options)
    nodes = check(net, noise(2, 3, 32, 32))
    for name in ("attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "add_2"):
        assert nodes[f"blocks.0.{name}"].sizes[1] == 17
        assert nodes[f"blocks.1.{name}"].sizes[1] == 1
    assert nodes["blocks.1.attn.matmul"].shape == (2, 2, 1, 17)
    assert nodes["blocks.1.attn.qkv"].sizes[1] == 17


def test_gradients_are_those_of_the_network() -> None:
    net = Net(MOVED["attention"]).eval()
    prepared = prepare(net, "w8a8", TOKENS)
    net(TOKENS).square().sum().backward()
    unquantized(prepared, TOKENS).square().sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            got = prepared.network.get_parameter(name).grad
            assert got is not None
            torch.testing.assert_close(got, parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_a_slice_moves_in_front_of_rows_and_meets_its_equal() -> None:
    assert_becomes(
        hoist_slices,
        """
        %x: f32[2?, 6, 4] = input()
        %size = scalar(%x)
        %one: f32[2?, 6, 4] = linear(%x) {target='one'}
        %two: f32[2?, 6, 4] = sigmoid(%one)
        %sum: f32[2?, 6, 4] = add(%x, %two)
        %heads: f32[2?, 6, 2, 2] = reshape(%sum, (%size, 6, 2, 2)) {target='view', method=True}
        %token: f32[2?, 1, 2, 2] = slice(%heads, ranges=((1, 0, 1, 1),)) {label='token'}
        return %token
        """,
        """
        %x: f32[2?, 6, 4] = input()
        %x_for_one: f32[2?, 1, 4] = slice(%x, ranges=((1, 0, 1, 1),)) {label='x.part'}
        %one: f32[2?, 1, 4] = linear(%x_for_one) {target='one', partial=True}
        %two: f32[2?, 1, 4] = sigmoid(%one) {partial=True}
        %sum: f32[2?, 1, 4] = add(%x_for_one, %two) {partial=True}
        %heads: f32[2?, 1, 2, 2] = reshape(%sum, (-1, 1, 2, 2)) {target=torch.reshape, partial=True}
        return %heads
        """,
    )


def test_a_slice_of_what_others_read_or_of_the_batch_stays() -> None:
    graph = """
        %x: f32[2?, 6, 4] = input()
        %f: f32[2?, 6, 4] = sigmoid(%x)
        %part: f32[2?, 1, 4] = slice(%f, ranges=((DIM, 0, 1, 1),))
        return OUTPUT
        """
    assert_stays(hoist_slices, graph.replace("DIM", "1").replace("OUTPUT", "(%part, %f)"))
    assert_stays(hoist_slices, graph.replace("DIM", "0").replace("OUTPUT", "%part"))

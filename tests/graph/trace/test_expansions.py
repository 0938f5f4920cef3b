"""PyTorch's attention and transformer encoders: taken apart, in integers, and under their own names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, noise
from placement import check
from torch import Tensor, nn

from qkd_deploy import initialize, prepare

TOKENS = noise(3, 5, 16, seed=1)


class Net(nn.Module):
    """Linear, ``middle``, linear; ``middle`` sees the inner module and a batch of tokens."""

    def __init__(self, inner: nn.Module, middle: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(16, 16), inner, nn.Linear(16, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> Any:
        y = self.middle(self.inner, self.first(x))
        return (self.last(y[0]), *y[1:]) if isinstance(y, tuple) else self.last(y)


def lively(module: nn.Module) -> nn.Module:
    """A module whose biases are not zero, as PyTorch makes those of attention, and whose layers all differ."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data += noise(*parameter.shape, seed=i, scale=0.1)
    return module


def attention(**options: Any) -> nn.Module:
    return lively(nn.MultiheadAttention(16, 2, **{"batch_first": True, **options}))


def turned(inner: Any, x: Tensor) -> Any:
    """For modules that want the batch second."""
    y = inner(x.transpose(0, 1))
    return y.transpose(0, 1)


ATTENTIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Any]]] = {
    "weights unused": (attention, lambda m, x: m(x, x, x)[0]),
    "no weights": (attention, lambda m, x: m(x, x, x, need_weights=False)[0]),
    "mean weights": (attention, lambda m, x: m(x, x, x)),
    "weights": (attention, lambda m, x: m(x, x, x, average_attn_weights=False)),
    "no bias": (partial(attention, bias=False), lambda m, x: m(x, x, x)[0]),
    "dropout": (partial(attention, dropout=0.1), lambda m, x: m(x, x, x)[0]),
    "batch second": (
        partial(attention, batch_first=False),
        lambda m, x: turned(lambda y: m(query=y, key=y, value=y, need_weights=False)[0], x),
    ),
    "other keys": (attention, lambda m, x: m(x, torch.relu(x), torch.relu(x) * 0.5)[0]),
    "positions in queries and keys": (attention, lambda m, x: m(x + 0.3, x + 0.3, x)[0]),
    "narrow keys": (partial(attention, kdim=8, vdim=4), lambda m, x: m(x, x[..., :8], x[..., 8:12])[0]),
}


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_has_the_codes_of_the_runtime(case: str) -> None:
    make, middle = ATTENTIONS[case]
    returned = case in ("mean weights", "weights")  # weights that are an output are a softmax, all in integers
    deployed = check(Net(make(), middle), (TOKENS,), idle_steps=1, integer=returned)
    kinds = [node.kind for node in deployed.frozen.graph.nodes]
    weighing = ["softmax", "matmul"] if returned else ["exponential", "weighted_mean"]
    assert [kind for kind in kinds if kind in ("softmax", "matmul", "exponential", "weighted_mean")] == [
        "matmul",
        *weighing,
    ]
    assert kinds.count("dropout") == (case == "dropout")
    assert len(deployed.prepared.account.floats) == (0 if returned else 2)
    assert not assert_same_codes(deployed, (noise(16, 5, 16, seed=9),))


def test_names_and_values_stay() -> None:
    net = Net(attention(), lambda m, x: m(x, torch.relu(x), x)[0])
    prepared = prepare(net, "w8a8", (TOKENS,))
    assert list(prepared.network.state_dict()) == list(net.state_dict())
    assert [name for name, _ in prepared.network.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert [str(node.target) for node in prepared.layers()] == [
        "first", "inner.linear", "inner.linear_1", "inner.linear_2", "inner.out_proj", "last",
    ]  # fmt: skip
    other = copy.deepcopy(prepared)
    other.network.load_state_dict({k: v * 0 for k, v in net.state_dict().items()}, assign=True)
    assert not other.network.get_submodule("inner.linear_1").weight.any()
    weight = prepared.network.get_submodule("inner.linear_1").weight
    assert torch.equal(weight, net.inner.in_proj_weight[16:32])


class Block(nn.Module):
    """The encoder block of widely used vision transformers, with attention that returns no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(16, eps=1e-6), nn.LayerNorm(16, eps=1e-6)
        self.self_attention = attention(dropout=0.1)
        self.dropout = nn.Dropout(0.1)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16), nn.Dropout(0.1))

    def forward(self, input: Tensor) -> Tensor:
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.dropout(x) + input
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 2, 32, **{"batch_first": True, **options})


ENCODERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Any], int]] = {
    "block": (Block, lambda m, x: m(x), 2),
    "layer": (layer, lambda m, x: m(x), 2),
    "norm first, gelu": (partial(layer, norm_first=True, activation="gelu"), lambda m, x: m(x), 2),
    "another activation, batch second": (partial(layer, activation=F.silu, batch_first=False), turned, 2),
    "encoder": (lambda: nn.TransformerEncoder(layer(), 2, nn.LayerNorm(16)), lambda m, x: m(x), 5),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_of_encoders_only_layer_norms_and_parts_of_attention_stay_in_float(case: str) -> None:
    make, middle, norms = ENCODERS[case]
    net = Net(lively(make()), middle)
    deployed = check(net, (TOKENS,), integer=False, idle_steps=1)
    floats = [entry for entry in deployed.prepared.account.floats if entry.operation == "layer_norm"]
    assert len(floats) == norms
    assert all(isinstance(net.get_submodule(entry.name), nn.LayerNorm) for entry in floats)
    others = {entry.operation for entry in deployed.prepared.account.floats} - {"layer_norm"}
    assert others == {"exponential", "weighted_mean"}
    assert not assert_same_codes(deployed, (noise(16, 5, 16, seed=9),))
    assert list(deployed.prepared.network.state_dict()) == list(net.state_dict())


def test_dropout_is_active_in_training() -> None:
    prepared = prepare(Net(attention(dropout=0.5), lambda m, x: m(x, x, x)), "w8a8", (TOKENS,))
    initialize(prepared, TOKENS)
    prepared.train()
    weights = prepared(TOKENS)[1].detach()
    assert float((prepared(TOKENS)[1].detach() - weights).abs().max()) > 0.01
    prepared.eval()
    assert torch.equal(prepared(TOKENS)[1], prepared(TOKENS)[1])


class Causal(nn.Module):
    """An encoder whose tokens see those before them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = lively(nn.TransformerEncoder(layer(dropout=0.0), 1, enable_nested_tensor=False))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, mask=self.mask, is_causal=True)


KEPT: dict[str, tuple[nn.Module, list[str]]] = {
    "mask": (Causal(), ["self_attn"]),
    "extra keys": (Net(attention(add_bias_kv=True), lambda m, x: m(x, x, x)[0]), ["inner"]),
    "zeros": (Net(attention(add_zero_attn=True), lambda m, x: m(x, x, x)[0]), ["inner"]),
    "own forward": (Net(attention(), lambda m, x: m(x, x, x)[0]), ["inner"]),
}
KEPT["own forward"][0].inner.register_forward_hook(lambda m, args, result: (result[0] * 2, None))


@pytest.mark.parametrize("case", KEPT)
def test_other_attention_is_kept_whole_and_right(case: str) -> None:
    net, names = KEPT[case]
    prepared = prepare(net.eval(), "w8a8", (TOKENS,))
    found = [entry.name.rpartition(".")[2] for entry in prepared.account.floats]
    assert [name for name in found if "norm" not in name] == names
    initialize(prepared, TOKENS)
    with torch.no_grad():
        expected, got = net(TOKENS), prepared(TOKENS)
    assert float((expected - got).norm() / expected.norm()) < 0.1


def test_attention_over_the_batch_is_kept_whole() -> None:
    prepared = prepare(Net(attention(batch_first=False), lambda m, x: m(x, x, x)[0]).eval(), "w8a8", (TOKENS,))
    assert [entry.name for entry in prepared.account.floats] == ["inner"]
    assert "over the batch" in str(prepared.account)


def test_classes_in_leaf_modules_are_kept_whole() -> None:
    net = Net(layer(), lambda m, x: m(x)).eval()
    prepared = prepare(net, "w8a8", (TOKENS,), leaf_modules=(nn.TransformerEncoderLayer,))
    assert [entry.name for entry in prepared.account.floats] == ["inner"]

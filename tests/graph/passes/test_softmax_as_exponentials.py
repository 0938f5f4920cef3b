"""Means weighted by exponentials: which softmaxes become them, their codes by formula, and signed right operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from deployment import SATURATES, Deployed, assert_same_codes, deploy, feeds_of, finish, noise
from frozen_sums import frozen_headroom
from hypothesis import given, settings
from hypothesis import strategies as st
from placement import unquantized
from rewriting import assert_becomes, assert_stays
from torch import Tensor, nn

from qkd_deploy import UserError, freeze, initialize, prepare
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.unary import exponential_scale
from qkd_deploy.graph.passes.softmax_as_exponentials import softmax_as_exponentials
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.quantized import QuantParams, meets_signed
from qkd_deploy.verification.overflow.bounds import file_headroom
from qkd_deploy.verification.runtime import CodesModel, quantized_values

TOKENS = noise(4, 6, 12, seed=3, scale=2.0)


class Net(nn.Module):
    """Queries, keys and values of tokens, ``middle``, a linear layer."""

    def __init__(self, middle: Callable[[Any, Tensor, Tensor, Tensor], Any], rectified: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.dropout, self.middle, self.rectified = nn.Dropout(0.5), middle, rectified

    def forward(self, x: Tensor) -> Any:
        q, k, v = (layer(x).relu() if self.rectified else layer(x) for layer in (self.q, self.k, self.v))
        y = self.middle(self, q, k, v)
        return (self.out(y[0]), *y[1:]) if isinstance(y, tuple) else self.out(y)


def plain(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def kinds(prepared: PreparedModel) -> list[str]:
    return [node.kind for node in prepared.graph.nodes]


@pytest.mark.parametrize(
    ("middle", "weighted"),
    [
        (plain, True),
        (lambda net, q, k, v: net.dropout((q @ k.mT).softmax(-1)) @ v, True),
        (lambda net, q, k, v: torch.einsum("bqk,bkc->bqc", (q @ k.mT).softmax(-1), v), True),
        (lambda net, q, k, v: nn.functional.scaled_dot_product_attention(q, k, v), True),
        (lambda net, q, k, v: ((q @ k.mT).softmax(-1).to(q.dtype) @ v) @ v.mT @ v, True),
        (lambda net, q, k, v: net.dropout((q @ k.mT).softmax(-1).flatten(0, 1).unsqueeze(0)) @ v[:1], True),
        (lambda net, q, k, v: net.dropout((q @ k.mT).softmax(-1)).reshape(-1, 6, 1, 6)[:, :, 0] @ v, False),
        (lambda net, q, k, v: (q.mT @ k).softmax(-1).mT @ v.mT @ q, False),  # transposed: no sum over the weights
        (lambda net, q, k, v: q @ (k.mT @ v).softmax(-1), False),  # on the right
        (lambda net, q, k, v: (w := (q @ k.mT).softmax(-1), w @ v)[1] + w.mean(-1, keepdim=True), False),  # read twice
        (lambda net, q, k, v: ((w := (q @ k.mT).softmax(-1)) @ v, w), False),  # an output
        (lambda net, q, k, v: ((w := (q @ k.mT).softmax(-1)) @ w) @ v, False),  # times itself
    ],
)
def test_a_softmax_that_one_product_reads_on_its_left_becomes_exponentials(middle: Any, weighted: bool) -> None:
    deployed = deploy(Net(middle).eval(), (TOKENS,), "w8a8")
    found = kinds(deployed.prepared)
    assert (found.count("exponential"), found.count("weighted_mean")) == ((1, 1) if weighted else (0, 0))
    assert ("softmax" in found) == (not weighted)
    assert not assert_same_codes(deployed, (TOKENS,)) and not assert_same_codes(deployed, (noise(5, 6, 12, seed=9),))


@pytest.mark.parametrize("options", [{"placement": "paper"}, {"bits": "w4a32"}])
def test_softmax_stays_where_it_is_computed_in_float(options: dict[str, Any]) -> None:
    found = kinds(prepare(Net(plain), options.pop("bits", "w4a4"), TOKENS, **options))
    assert "softmax" in found and "exponential" not in found


def test_the_prepared_model_computes_a_softmax_and_its_gradient() -> None:
    net = Net(plain)
    prepared = prepare(net.eval(), "w8a8", TOKENS)
    initialize(prepared, TOKENS)
    expected, got = net(TOKENS), prepared(TOKENS)
    assert float((got - expected).norm() / expected.norm()) < 0.04
    for module in (net, prepared):
        module(TOKENS).square().sum().backward()
    for name, parameter in net.named_parameters():
        gradient, own = parameter.grad, prepared.network.get_parameter(name).grad
        assert gradient is not None and own is not None
        if float(gradient.norm()) > 1e-3:
            assert float((own - gradient).norm() / gradient.norm()) < 0.2, name


def test_dropped_weights_still_count_in_the_sum_that_divides() -> None:
    torch.manual_seed(0)
    net = Net(lambda net, q, k, v: net.dropout((q @ k.mT).softmax(-1)) @ v)
    prepared = prepare(net, "w8a8", TOKENS).train()
    initialize(prepared, TOKENS)
    with torch.no_grad():
        for module in (net.v, prepared.network.v):
            module.weight.zero_()
            module.bias.fill_(1.0)  # type: ignore[union-attr]
        means = [prepared.network.out(torch.ones(12)), prepared(TOKENS)]
    assert float((means[1] - means[0]).abs().max()) > 0.1  # were it divided by what is left, all means would be 1


def by_formula(deployed: Deployed, scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stored codes of the exponentials and of the means, from stored codes of scores and values."""
    graph, frozen = deployed.frozen.graph, deployed.frozen
    (weight,), (mean,) = ([n for n in graph.nodes if n.kind == kind] for kind in ("exponential", "weighted_mean"))
    grids = [frozen.grid(str(graph.node(name).quantizer)) for name in (weight.inputs[0], weight.name, mean.name)]
    value = frozen.grid(str(graph.node(mean.inputs[1]).quantizer))
    step, weight_step, mean_step, value_step = (np.float32(grid.scale) for grid in (*grids, value))
    below = (scores.astype(int) - scores.max(-1, keepdims=True)).astype(np.float32) * step
    e = np.rint((np.exp(below.astype(np.float64)) / float(weight_step)).astype(np.float32)).astype(int)
    sums = (e @ (values.astype(int) - value.zero_point)).astype(np.float32)
    quotient = sums / e.sum(-1, keepdims=True).astype(np.float32)
    steps = np.rint(quotient / np.float32(mean_step / value_step))
    return e, np.clip(steps, grids[2].lo, grids[2].hi).astype(int) + grids[2].zero_point


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w2a2"])
@pytest.mark.parametrize("rectified", [False, True])
def test_codes_are_those_of_the_formula(bits: str, rectified: bool) -> None:
    deployed = deploy(Net(plain, rectified).eval(), (TOKENS,), bits)
    codes = deployed.frozen.codes(TOKENS)
    runtime = CodesModel(deployed.model, 1, quantized_values(deployed.model, deployed.values.values()))
    _, made = runtime.run(feeds_of(deployed.model, (TOKENS,)))
    e, mean = by_formula(deployed, codes["matmul"], codes["v"])
    for name, expected in (("softmax", e), ("matmul_2", mean)):
        np.testing.assert_array_equal(made[deployed.values[name]], expected, err_msg=name)
    assert e.max() == 128 and e.max(-1).min() == 128


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-4, 2.0), st.integers(3, 255))
def test_exponentials_keep_away_from_ties(step: float, span: int) -> None:
    source = CodeRange(float(np.float32(step)), 128, -128, span - 128)
    scale = exponential_scale(source, CodeRange(2.0**-7, 0, 0, 128), "softmax")
    below = (np.arange(-span, 1, dtype=np.float32) * np.float32(source.scale)).astype(np.float64)
    steps = np.exp(below) / scale
    distance = np.abs(steps - np.floor(steps) - 0.5) * scale
    assert distance.min() > 1e-6
    assert np.rint(steps[-1]) == 128


@pytest.mark.parametrize(
    ("bits", "options", "factor", "kernels"),
    [
        ("w8a8", {}, (7, 0, 127), {np.dtype(np.int8)}),
        ("w4a4", {"residual": "shared"}, (4, 0, 15), {np.dtype(np.int8)}),
        ("w8a8", {"weight_range": "full"}, (8, 0, 255), {np.dtype(np.uint8)}),
    ],
)
def test_right_operands_are_signed_bytes_within_64(
    bits: str, options: dict[str, Any], factor: tuple[int, int, int], kernels: set[Any]
) -> None:
    deployed = deploy(Net(plain).eval(), (TOKENS,), bits, **options)
    grid = deployed.frozen.grid("k")
    assert (grid.bits, grid.zero_point + grid.lo, grid.zero_point + grid.hi) == factor
    products = [node for node in deployed.model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 1
    zero_points = {t.name: t.data_type for t in deployed.model.graph.initializer}
    (right,) = [node for node in deployed.model.graph.node if node.output[0] == products[0].input[1]]
    while right.op_type != "DequantizeLinear":
        (right,) = [node for node in deployed.model.graph.node if node.output[0] == right.input[0]]
    assert {np.dtype(np.int8 if zero_points[right.input[2]] == 3 else np.uint8)} == kernels
    if "weight_range" not in options or not SATURATES:  # weights beyond +-64 are not for CPUs without VNNI
        assert not assert_same_codes(deployed, (TOKENS,))


def test_a_tensor_on_both_sides_is_requantized_for_the_right() -> None:
    deployed = deploy(Net(lambda net, q, k, v: (q @ q.mT) @ v).eval(), (TOKENS,), "w8a8")
    bits = {name: grid.bits for name, grid in deployed.frozen.grids.items()}  # type: ignore[union-attr]
    assert bits["q"] == 8 and sorted(bits.values()).count(7) == 2  # q turned, and v
    assert not assert_same_codes(deployed, (TOKENS,))


@pytest.mark.parametrize("rectified", [False, True])
def test_constant_right_operands_are_signed_too(rectified: bool) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(12, 12), nn.Linear(5, 3)
            table = noise(12, 5, seed=4)
            self.table = nn.Parameter(table.abs() if rectified else table)

        def forward(self, x: Tensor) -> Tensor:
            return self.out((self.first(x) * 2).softmax(-1) @ self.table)  # type: ignore[no-any-return]

    deployed = deploy(Fixed().eval(), (TOKENS,), "w8a8")
    assert "weighted_mean" in kinds(deployed.prepared)
    assert not assert_same_codes(deployed, (TOKENS,))


def test_what_signed_bytes_may_meet() -> None:
    def grid(zero_point: int, lo: int, hi: int) -> QuantParams:
        return QuantParams(1.0, 8, zero_point, lo, hi)

    exponentials, codes = grid(0, 0, 128), grid(128, -128, 127)
    assert meets_signed(exponentials, codes) and meets_signed(exponentials, grid(0, 0, 255))
    assert meets_signed(codes, grid(64, -64, 63)) and meets_signed(codes, grid(128, 0, 127))
    assert meets_signed(grid(0, 0, 127), codes) and meets_signed(grid(0, 0, 15), grid(248, -8, 7))
    assert not meets_signed(codes, grid(66, -66, 63)) and not meets_signed(grid(0, 0, 129), codes)
    assert not meets_signed(codes, codes)


def test_frozen_model_and_file_have_the_same_worst_cases() -> None:
    deployed = deploy(Net(plain).eval(), (TOKENS,), "w8a8")
    frozen, file = frozen_headroom(deployed.frozen), file_headroom(deployed.model)
    assert frozen == file and [*file][3:5] == ["matmul", "matmul_2"]
    assert file["matmul_2"].accumulator == (6 * 128 * -128, 6 * 128 * 127)


ATTEND = nn.functional.scaled_dot_product_attention


def heads(t: Tensor) -> Tensor:
    return t.reshape(t.shape[0], t.shape[1], 3, 4).transpose(1, 2)


BROADCAST: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    "learned queries": lambda n, q, k, v: ATTEND(n.queries, k, v)[:, 1],
    "one head of queries": lambda n, q, k, v: ATTEND(q[:, None, :, :4], heads(k), heads(v))[:, 1].repeat(1, 1, 3),
    "one head of keys": lambda n, q, k, v: ATTEND(heads(q), k[:, None, :, :4], v[:, None, :, :4])[:, 2].repeat(1, 1, 3),
    "constant keys": lambda n, q, k, v: ATTEND(q, n.table, n.table),
}


@pytest.mark.parametrize("case", BROADCAST)
def test_attention_may_broadcast(case: str) -> None:
    net = Net(BROADCAST[case])
    net.queries, net.table = nn.Parameter(noise(3, 12, seed=7)), nn.Parameter(noise(1, 6, 12, seed=6))
    net.eval()
    deployed = deploy(net, (TOKENS,), "w8a8")
    for batch in (TOKENS, TOKENS[:1]):
        torch.testing.assert_close(unquantized(deployed.prepared, batch), net(batch), atol=1e-5, rtol=1e-4)
        assert not assert_same_codes(deployed, (batch,))


def weights(net: Any, q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1)


FORMS: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    "plain": plain,
    "scaled scores": lambda n, q, k, v: ATTEND(q, k, v),
    "scaled values": lambda n, q, k, v: weights(n, q, k) @ (v * 0.2),
    "values read on another grid": lambda n, q, k, v: weights(n, q, k) @ nn.functional.hardsigmoid(v),
    "rectified": lambda n, q, k, v: (weights(n, q, k) @ v).relu(),
    "constant values": lambda n, q, k, v: weights(n, q, k) @ n.table,
    "constant weights": lambda n, q, k, v: n.table[0, :, :6].softmax(-1) @ v,
    "values from a table": lambda n, q, k, v: weights(n, q, k) @ nn.functional.gelu(v),
    "a mean of means": lambda n, q, k, v: weights(n, q, k) @ (weights(n, q, k) @ v),
    "a mean on the right": lambda n, q, k, v: q @ (weights(n, q, k) @ v).mT @ v,
    "one tensor on both sides": lambda n, q, k, v: q @ q.mT @ v,
}


@pytest.mark.parametrize("case", FORMS)
def test_the_float_form_computes_the_network_and_every_sum_is_bounded(case: str) -> None:
    net = Net(FORMS[case])
    net.table = nn.Parameter(noise(1, 6, 12, seed=6))
    deployed = deploy(net.eval(), (TOKENS,), "w8a8")
    session = onnxruntime.InferenceSession(build_float_model(deployed.prepared).SerializeToString())
    (got,) = session.run(None, {session.get_inputs()[0].name: TOKENS.numpy()})
    expected = net(TOKENS).detach().numpy()
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.03
    assert {*frozen_headroom(deployed.frozen)} <= {*file_headroom(deployed.model)}


def test_sums_that_could_overflow_are_refused() -> None:
    net = Net(plain).eval()
    prepared = prepare(net, "w8a8", noise(1, 2, 12))
    initialize(prepared, noise(1, 2, 12))
    freeze(prepared)
    for node in prepared.graph.nodes:
        if node.kind == "exponential":
            node.shape = (1, 2, 140_000)
    with pytest.raises(UserError, match=r"matmul_2 sums 140,000 products"):
        freeze(prepared)


def test_training_keeps_it_exact() -> None:
    prepared = prepare(Net(plain), "w4a4", TOKENS).train()
    initialize(prepared, TOKENS)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.05)
    for step in range(5):
        optimizer.zero_grad()
        prepared(noise(8, 6, 12, seed=step)).square().mean().backward()
        optimizer.step()
    assert not assert_same_codes(finish(prepared.eval()), (TOKENS,))


def test_weights_and_their_product_change_together() -> None:
    assert_becomes(
        softmax_as_exponentials,
        """
        %x: f32[2?, 6, 6] = input()
        %v: f32[2?, 6, 4] = input()
        %softmax: f32[2?, 6, 6] = softmax(%x)
        %heads: f32[2?, 1, 6, 6] = reshape(%softmax, (-1, 1, 6, 6))
        %dropout: f32[2?, 1, 6, 6] = dropout(%heads)
        %matmul: f32[2?, 1, 6, 4] = matmul(%dropout, %v)
        return %matmul
        """,
        """
        %x: f32[2?, 6, 6] = input()
        %v: f32[2?, 6, 4] = input()
        %softmax: f32[2?, 6, 6] = exponential(%x) {clip=(0.0, 1.0)}
        %heads: f32[2?, 1, 6, 6] = reshape(%softmax, (-1, 1, 6, 6))
        %dropout: f32[2?, 1, 6, 6] = dropout(%heads)
        %matmul: f32[2?, 1, 6, 4] = weighted_mean(%dropout, %v, %heads)
        return %matmul
        """,
    )


@pytest.mark.parametrize("product", ["matmul(%v, %softmax)", "matmul(%softmax, %softmax)", "add(%softmax, %v)"])
def test_weights_that_are_no_left_operand_stay_a_softmax(product: str) -> None:
    assert_stays(
        softmax_as_exponentials,
        f"""
        %x: f32[2?, 6, 6] = input()
        %v: f32[2?, 6, 6] = input()
        %softmax: f32[2?, 6, 6] = softmax(%x)
        %product: f32[2?, 6, 6] = {product}
        return %product
        """,
    )

"""Single calls run on the examples and on twice as many, in eval mode, without a trace in the network."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from deployment import noise
from torch import fx, nn

from qkd_deploy.graph.trace.batch_sizes import BATCHES, Unknown
from qkd_deploy.graph.trace.calls import Call
from qkd_deploy.graph.trace.errors import Failed, Untraceable
from qkd_deploy.graph.trace.proxies import Concrete
from qkd_deploy.graph.trace.steps import StepRunner

IMAGES = noise(3, 4)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("factor", torch.tensor(2.0))


@pytest.fixture
def runner() -> StepRunner:
    return StepRunner(Network().eval(), {"x": IMAGES.clone()}, set())


def proxy(*seen: Any) -> Concrete:
    return Concrete(fx.Graph().placeholder("x"), fx.Tracer(), seen)


def example(runner: StepRunner) -> Concrete:
    seen, _ = runner.run(Call("placeholder", "x"))
    return proxy(*seen)


def test_inputs_are_the_examples_and_more(runner: StepRunner) -> None:
    one, two = example(runner).seen
    assert torch.equal(one, IMAGES)
    assert two.shape == (6, 4)


def test_attributes_are_the_same_at_any_batch(runner: StepRunner) -> None:
    (one, two), unchanged = runner.run(Call("get_attr", "factor"))
    assert one is two
    assert float(one) == 2.0
    assert not unchanged


def test_sizes_and_arithmetic_are_known_at_all_batches(runner: StepRunner) -> None:
    size, _ = runner.run(Call("call_method", "size", (example(runner), 0)))
    assert size == (3, 6, *BATCHES)
    halves, _ = runner.run(Call("call_function", operator.floordiv, (proxy(*size), 2)))
    assert halves == (1, 3, *(batch // 2 for batch in BATCHES))
    inverse, _ = runner.run(Call("call_function", operator.floordiv, (6, proxy(3, 6, *(0 for _ in BATCHES)))))
    assert inverse[:2] == (2, 1)
    assert all(isinstance(value, Unknown) for value in inverse[2:])


def test_operands_that_come_back_unchanged_are_told(runner: StepRunner) -> None:
    x = example(runner)
    assert runner.run(Call("call_method", "clone", (x,)))[1]
    assert not runner.run(Call("call_method", "double", (x,)))[1]
    assert not runner.run(Call("call_method", "mul_", (x, 1)))[1], "in place, with the same elements"
    assert not runner.run(Call("call_method", "mul", (x, 2)))[1]


def test_leaves_run_in_eval_mode_and_keep_their_own() -> None:
    network = Network().train()
    runner = StepRunner(network, {"x": IMAGES.clone()}, set())
    (one, _), _ = runner.run(Call("call_module", "norm", (example(runner),)))
    assert torch.allclose(one, IMAGES, atol=1e-4), "with running statistics"
    assert int(network.norm.num_batches_tracked) == 0
    assert network.norm.training


def test_plain_leaves_run_the_forward_of_their_base() -> None:
    class Negated(nn.BatchNorm1d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return -super().forward(input)

    network = nn.ModuleDict({"norm": Negated(4)}).eval()
    for plain, sign in ((set(), -1), ({"norm"}, 1)):
        runner = StepRunner(network, {"x": IMAGES.clone()}, plain)
        (one, _), _ = runner.run(Call("call_module", "norm", (example(runner),)))
        assert torch.allclose(one, sign * IMAGES, atol=1e-4)


def test_calls_that_raise_are_told_apart(runner: StepRunner) -> None:
    x = example(runner)
    with pytest.raises(Failed) as wrong:
        runner.run(Call("call_method", "view", (x, 5)))
    assert not wrong.value.doubled
    with pytest.raises(Failed) as one_batch_only:
        runner.run(Call("call_method", "view", (x, 3, 4)))
    assert one_batch_only.value.doubled
    assert not runner.is_running


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("tolist", "reads the values"),
        ("nonzero", "depends on the values"),
        ("bernoulli", "random numbers in eval"),
    ],
)
def test_results_that_no_graph_can_hold(runner: StepRunner, method: str, words: str) -> None:
    x = proxy(*(value.clamp(0, 1) for value in example(runner).seen))
    with pytest.raises(Untraceable, match=words):
        runner.run(Call("call_method", method, (x,)))


def test_random_numbers_are_free_in_train_mode_and_in_dropout() -> None:
    runner = StepRunner(Network().train(), {"x": IMAGES.clone()}, set())
    runner.run(Call("call_function", torch.rand_like, (example(runner),)))
    runner = StepRunner(Network().eval(), {"x": IMAGES.clone()}, set())
    runner.run(Call("call_function", torch.dropout, (example(runner), 0.5, True)))

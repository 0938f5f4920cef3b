from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from qkd_deploy.quantizers.learned_range import LearnedRange
from qkd_deploy.quantizers.step import fake_quantize
from qkd_deploy.training.loop.optimizers import NetworkOptimizer, OptimizerSettings, StepMovement
from qkd_deploy.training.loop.steps_optimizer import RelativeAdam


def scalar(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


def test_the_movement_is_relative_and_ignores_the_size_of_step_and_gradient() -> None:
    steps = [LearnedRange(1e-4), LearnedRange(1.0), LearnedRange(300.0)]
    optimizer = RelativeAdam([step.move for step in steps], lr=0.01)
    before = [step.value().item() for step in steps]
    for step, gradient in zip(steps, (1e6, 1e-7, -3.0), strict=True):
        (step.value() * gradient).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = [math.log(step.value().item() / old) for step, old in zip(steps, before, strict=True)]
    assert moved == pytest.approx([-0.01, -0.01, 0.01], rel=1e-3)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_badly_started_step_recovers(factor: float) -> None:
    torch.manual_seed(0)
    values = torch.randn(2000)
    candidates = torch.linspace(0.1, 0.8, 200)
    errors = torch.stack([((fake_quantize(values, s, -7, 7) - values) ** 2).mean() for s in candidates])
    best = candidates[errors.argmin()].item()
    step = LearnedRange(best * factor)
    optimizer = RelativeAdam([step.move], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        ((fake_quantize(values, step.value(), -7, 7) - values) ** 2).mean().backward()
        optimizer.step()
    assert step.value().item() == pytest.approx(best, rel=0.15)


@pytest.mark.parametrize("gradient", [1e30, -1e30, 1e-30])
def test_steps_stay_positive_and_finite(gradient: float) -> None:
    step = LearnedRange(1e-3)
    optimizer = RelativeAdam([step.move], lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        (step.value() * gradient).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert 0 < step.value().item() < math.inf


def test_missing_and_zero_gradients_do_not_move() -> None:
    steps = [scalar(0.1), scalar(0.2)]
    optimizer = RelativeAdam(steps)
    steps[0].grad = torch.tensor(0.0)
    optimizer.step()
    assert [round(step.item(), 6) for step in steps] == [0.1, 0.2]


def test_state_survives_saving() -> None:
    def run(optimizer: RelativeAdam, step: nn.Parameter, count: int) -> None:
        for index in range(count):
            step.grad = torch.tensor(float(index % 3 - 1))
            optimizer.step()

    one = scalar(0.5)
    first = RelativeAdam([one], lr=0.1)
    run(first, one, 4)
    other = scalar(one.item())
    second = RelativeAdam([other], lr=0.3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(first, one, 5)
    run(second, other, 5)
    assert one.item() == other.item()


class PreparedStandIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.weight_step, self.activation_step = scalar(0.1), scalar(0.2)

    def weight_steps(self) -> list[nn.Parameter]:
        return [self.weight_step]

    def activation_steps(self) -> list[nn.Parameter]:
        return [self.activation_step]

    def network_parameters(self) -> list[nn.Parameter]:
        return list(self.linear.parameters())


def test_steps_move_by_their_own_ratios_without_weight_decay() -> None:
    network = PreparedStandIn()
    movement = StepMovement(network)
    settings = OptimizerSettings(
        learning_rate=0.01, weight_decay=0.1, weight_step_ratio=0.01, activation_step_ratio=1.0
    )
    optimizer = NetworkOptimizer(network, settings)
    optimizer.set_factor(0.5)
    bias = network.linear.bias.detach().clone()
    weight = network.linear.weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    network.weight_step.grad, network.activation_step.grad = torch.tensor(1.0), torch.tensor(1.0)
    optimizer.step()
    assert optimizer.learning_rate == 0.005
    assert movement.since_last() == {"weight_steps": pytest.approx(5e-5), "activation_steps": pytest.approx(5e-3)}
    torch.testing.assert_close(network.linear.weight.detach(), weight * (1 - 0.005 * 0.1))
    assert torch.equal(network.linear.bias, bias)

"""Rounding that makes up for its own errors, against plain rounding and against all codes there are."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from qkd_deploy.calibration.compensated_rounding import rounded_weight
from qkd_deploy.calibration.second_moments import SecondMoments, second_moments


def moments_of(x: Tensor, y: Tensor) -> SecondMoments:
    """Moments of columns [N, d]."""
    return second_moments(torch.nn.Linear(x.shape[1], 1), x, y, torch.Generator().manual_seed(0))


def correlated(count: int, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, d, generator=generator) @ torch.rand(d, d, generator=generator)


def error(weight: Tensor, rounded: Tensor, x: Tensor, y: Tensor) -> float:
    """Variance of what the outputs are wrong by."""
    return float((y @ weight[0].T - x @ rounded[0].T).var(dim=0, correction=0).sum())


def test_uncorrelated_inputs_leave_plain_rounding() -> None:
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
    weight = torch.rand(1, 5, 4) * 6 - 3
    rounded = rounded_weight(weight, moments_of(x, x), torch.full((1, 5), 0.5), -3, 3)
    assert torch.equal(rounded, (weight / 0.5).round().clamp(-3, 3) * 0.5)


def test_correlated_inputs_come_close_to_the_best_of_all_codes() -> None:
    x = correlated(400, 4)
    weight, scale = torch.rand(1, 8, 4) * 3 - 1.5, torch.full((1, 8), 0.5)
    codes = torch.tensor(list(itertools.product(range(-3, 4), repeat=4)), dtype=torch.float32) * 0.5
    best = sum(min(error(row[None, None], code[None, None], x, x) for code in codes) for row in weight[0])
    plain = error(weight, (weight / 0.5).round().clamp(-3, 3) * 0.5, x, x)
    ours = error(weight, rounded_weight(weight, moments_of(x, x), scale, -3, 3), x, x)
    assert best <= ours < best + 0.25 * (plain - best)


def test_errors_of_the_inputs_are_made_up_for() -> None:
    y = correlated(400, 16)
    x = (y * 2).round() / 2 + 0.3 * y.roll(1, 1)
    weight, scale = torch.rand(1, 8, 16) - 0.5, torch.full((1, 8), 1 / 127)
    assert error(weight, rounded_weight(weight, moments_of(x, y), scale, -127, 127), x, y) < 0.5 * error(
        weight, weight, x, y
    )


def test_dead_inputs_and_groups_keep_their_rounded_weights() -> None:
    x = correlated(400, 4) * torch.tensor([1.0, 0.0, 1.0, 1.0])
    weight, scale = torch.rand(1, 2, 4), torch.full((1, 2), 0.1)
    assert torch.equal(
        rounded_weight(weight, moments_of(x, x), scale, -7, 7)[..., 1],
        (weight[..., 1] / 0.1).round().clamp(-7, 7) * 0.1,
    )
    nothing = moments_of(torch.zeros(4, 4), torch.zeros(4, 4))
    assert torch.equal(rounded_weight(weight, nothing, scale, -7, 7), (weight / 0.1).round().clamp(-7, 7) * 0.1)

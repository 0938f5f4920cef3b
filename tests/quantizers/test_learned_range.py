"""Ranges as any optimizer moves them: positive, relative, and exactly the same numbers on every machine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qkd_deploy.bits import TensorSpec
from qkd_deploy.quantizers.learned_range import LARGEST_GRADIENT, LearnedRange, with_moves
from qkd_deploy.quantizers.step import StepQuantizer


def moved(start: float, moves: list[float]) -> list[float]:
    learned = LearnedRange(start, len(moves))
    learned.move.data = torch.tensor(moves)
    return learned.value().tolist()


def test_a_move_is_close_to_a_logarithm_and_its_negative_undoes_it() -> None:
    assert moved(0.25, [0.0]) == [0.25]
    for move in (1e-4, 0.01, 0.3, 1.0):
        up, down = moved(0.25, [move, -move])
        assert math.log(up / 0.25) == pytest.approx(move, rel=0.035, abs=1e-6)
        assert up * down == pytest.approx(0.25**2, rel=1e-6)
    assert all(0 < value < math.inf for value in moved(0.25, [-400.0, -50.0, 50.0, 400.0]))


def test_the_value_is_made_of_operations_that_round_alike_everywhere() -> None:
    moves = np.linspace(-3, 3, 101, dtype=np.float32)
    factor = np.abs(moves) / np.float32(16) + np.float32(1)
    for _ in range(4):
        factor = factor * factor
    expected = np.where(moves < 0, np.float32(0.1) / factor, np.float32(0.1) * factor)
    assert expected.dtype == np.float32
    assert moved(0.1, moves.tolist()) == expected.tolist()


def test_the_gradient_is_that_of_the_logarithm_and_bounded() -> None:
    learned = LearnedRange(0.25, 4)
    learned.move.data = torch.tensor([0.0, 0.5, -0.5, 0.1])
    (learned.value() * torch.tensor([0.04, 0.03, -0.02, 100.0])).sum().backward()
    assert learned.move.grad is not None
    h = 4e-3
    for index, factor in enumerate((0.04, 0.03, -0.02)):
        move = learned.move[index].item()
        slope = (moved(0.25, [move + h])[0] - moved(0.25, [move - h])[0]) / (2 * h)
        assert float(learned.move.grad[index]) == pytest.approx(factor * slope, rel=1e-3)
    assert float(learned.move.grad[3]) == pytest.approx(LARGEST_GRADIENT)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_weight_decay_draws_to_the_start_and_not_to_zero(optimizer: type[torch.optim.Optimizer]) -> None:
    learned = LearnedRange(1e-3)
    optimize = optimizer(learned.parameters(), lr=0.1, weight_decay=0.1)  # type: ignore[call-arg]
    for _ in range(100):
        learned.move.grad = torch.tensor(0.0)
        optimize.step()
    assert float(learned.value().detach()) == pytest.approx(1e-3)


def test_set_starts_anew() -> None:
    learned = LearnedRange(1.0, 2)
    learned.move.data.fill_(0.7)
    learned.set(torch.tensor([0.1, 0.2]))
    assert learned.move.tolist() == [0.0, 0.0]
    assert learned.value().tolist() == pytest.approx([0.1, 0.2])
    learned.set(0.5)
    assert learned.value().tolist() == [0.5, 0.5]


def test_state_dicts_of_older_versions_are_renewed() -> None:
    quantizer = StepQuantizer(TensorSpec.weight(4))
    old = {"w.step": torch.tensor(0.125), "other": torch.ones(2)}
    renewed = with_moves(old, torch.nn.ModuleDict({"w": quantizer}))
    assert list(renewed) == ["other", "w.step.start", "w.step.move"] and old.keys() == {"w.step", "other"}
    quantizer.load_state_dict({name.removeprefix("w."): value for name, value in renewed.items() if name != "other"})
    assert float(quantizer.scale().detach()) == 0.125

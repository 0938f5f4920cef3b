"""Starting steps: the published formulas, and that the default is no worse than they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qkd_deploy.bits import TensorSpec
from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.scale_search import METHODS, initial_scale
from qkd_deploy.quantizers.step import SCALE_FLOOR

GENERATOR = torch.Generator().manual_seed(0)
TENSORS = {
    "normal": torch.randn(5000, generator=GENERATOR),
    "relu": torch.randn(5000, generator=GENERATOR).relu(),
    "uniform": torch.rand(5000, generator=GENERATOR),
    "outlier": torch.cat([torch.randn(5000, generator=GENERATOR), torch.tensor([60.0])]),
    "few": torch.tensor([-0.3, 0.0, 0.1, 0.25]),
    "tiny": torch.randn(100, generator=GENERATOR) * 1e-6,
    "large": torch.randn(5000, generator=GENERATOR) * 1e6,
}
SPECS = {
    "w8": TensorSpec.weight(8),
    "w4": TensorSpec.weight(4),
    "w2": TensorSpec.weight(2),
    "a8": TensorSpec.activation(8, signed=False),
    "a4": TensorSpec.activation(4, signed=False),
    "signed a2": TensorSpec.activation(2, signed=True),
}


def error(v: Tensor, spec: TensorSpec, step: float) -> float:
    v = v if spec.signed else v.clamp(min=0)
    return float((torch.round(v / step).clamp(spec.lo, spec.hi) * step - v).double().square().sum())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("tensor", TENSORS)
def test_least_squares_is_no_worse_than_the_published_ones(tensor: str, spec: str) -> None:
    v, grid = TENSORS[tensor], SPECS[spec]
    best = error(v, grid, initial_scale(v, grid, "mse"))
    for method in ("lsq", "minmax"):
        assert best <= error(v, grid, initial_scale(v, grid, method)) * 1.02, method


def test_formulas() -> None:
    v = torch.tensor([-3.0, 1.0, 2.0])
    assert initial_scale(v, TensorSpec.weight(4), "minmax") == pytest.approx(3 / 7)
    assert initial_scale(v, TensorSpec.weight(4), "lsq") == pytest.approx(2 * 2 / 7**0.5)
    # negative values never reach an unsigned grid
    assert initial_scale(v, TensorSpec.activation(4, signed=False), "minmax") == pytest.approx(2 / 15)
    assert initial_scale(v, TensorSpec.activation(4, signed=False), "lsq") == pytest.approx(2 * 1 / 15**0.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("v", [torch.zeros(4, 4), torch.full((3,), -2.0), torch.empty(0)])
def test_tensors_without_positive_values_give_a_usable_step(method: str, v: Tensor) -> None:
    assert initial_scale(v, TensorSpec.activation(4, signed=False), method) > 0


@pytest.mark.parametrize("method", METHODS)
def test_steps_stay_above_the_floor(method: str) -> None:
    assert initial_scale(torch.full((4,), 1e-30), TensorSpec.weight(8), method) >= SCALE_FLOOR


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        initial_scale(torch.tensor([1.0, bad]), TensorSpec.weight(4))


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown initialisation 'msr'; choose one of mse, percentile, lsq, minmax"):
        initial_scale(torch.ones(2), TensorSpec.weight(4), "msr")


def test_large_tensors_are_thinned_without_losing_the_range() -> None:
    v = torch.randn(300_000, generator=torch.Generator().manual_seed(3))
    assert initial_scale(v, TensorSpec.weight(4)) == pytest.approx(
        initial_scale(v[:60_000], TensorSpec.weight(4)), rel=0.1
    )

"""Streaming statistics: the histogram is exact under any division into batches, the rest is what its name says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.observer import HistogramObserver


def gathered(*batches: Tensor, signed: bool = True) -> HistogramObserver:
    statistics = HistogramObserver(signed=signed)
    for batch in batches:
        statistics.update(batch)
    return statistics


@given(
    st.lists(
        st.lists(st.floats(-(2.0**15), 2.0**15, width=32), min_size=1, max_size=9),
        min_size=1,
        max_size=6,
    )
)
def test_counts_do_not_depend_on_the_division_into_batches(batches: list[list[float]]) -> None:
    parts = [torch.tensor(batch) for batch in batches]
    one = gathered(torch.cat(parts))
    for many in (gathered(*parts), gathered(*reversed(parts))):
        assert one.largest == many.largest and one.count == many.count
        for whole, divided in zip(one.distribution(), many.distribution(), strict=True):
            assert torch.equal(whole, divided)
        assert one.quantile(0.7) == many.quantile(0.7)


def test_growing_batches_merge_bins_without_losing_a_value() -> None:
    v = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 64).unsqueeze(1)
    many = gathered(*v.split(1))
    values, counts = many.distribution()
    assert int(counts.sum()) == many.count == 6400
    assert many.largest == float(v.abs().max())
    assert many.total == pytest.approx(float(v.abs().double().sum()))
    assert float((values * counts).sum()) == pytest.approx(float(v.sum()), rel=1e-3)


def test_bins_hold_their_values() -> None:
    v = torch.tensor([-3.0, -1e-4, 0.0, -0.0, 1e-4, 0.7, 3.9])
    values, counts = gathered(v).distribution()
    assert counts.tolist() == [1, 1, 2, 1, 1, 1]
    assert values[2] == 0  # zeros are exactly zeros
    torch.testing.assert_close(values[[0, 1, 3, 4, 5]], v[[0, 1, 4, 5, 6]], rtol=0, atol=4 / 2**15)


def test_unsigned_statistics_take_negative_values_for_zeros() -> None:
    values, counts = gathered(torch.tensor([-5.0, -1.0, 0.0, 2.0]), signed=False).distribution()
    assert counts.tolist() == [3, 1]
    assert values.tolist() == pytest.approx([0, 2], rel=1e-4)


def test_quantiles_do_not_count_zeros() -> None:
    magnitudes = torch.arange(1, 1001).float()
    v = torch.cat([torch.zeros(9000), magnitudes * torch.tensor([1.0, -1.0]).repeat(500)])
    for share in (0.5, 0.9, 0.999):
        assert gathered(v).quantile(share) == pytest.approx(1000 * share, abs=1024 / 2**15)
    assert gathered(v).quantile(1.0) == 1000


@pytest.mark.parametrize("shape", [(3, 64, 32, 32), (5, 49, 7, 7), (2, 8191)])
def test_long_rows_are_thinned_evenly_but_never_the_largest_value(shape: tuple[int, ...]) -> None:
    v = torch.rand(*shape, generator=torch.Generator().manual_seed(1))
    v[0, 1, ...] = v[0, 1, ...] + 1  # rows of one channel or, in two dimensions, one value
    v.flatten()[-2] = 9.0
    statistics = gathered(v)
    values, counts = statistics.distribution()
    assert statistics.count == v.numel() and statistics.largest == 9
    assert 1024 * shape[0] < int(counts.sum()) <= 4097 * shape[0]
    mean = float((values * counts).sum() / counts.sum())
    assert mean == pytest.approx(float(v.mean()), rel=0.03)
    if len(shape) == 4:  # every column of an image takes part
        columns = torch.arange(shape[-1]).float().expand(shape) + 1
        assert len(gathered(columns).distribution()[0]) == shape[-1]


def test_thinning_does_not_depend_on_the_batches() -> None:
    v = torch.randn(6, 3, 50, 50, generator=torch.Generator().manual_seed(2))
    for whole, divided in zip(gathered(v).distribution(), gathered(*v.split(1)).distribution(), strict=True):
        assert torch.equal(whole, divided)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("signed", [False, True])
def test_values_that_are_not_finite_are_refused(bad: float, signed: bool) -> None:
    if bad == -float("inf") and not signed:
        return  # it lies below an unsigned grid like any negative value
    with pytest.raises(UserError, match="not finite"):
        gathered(torch.ones(3), torch.tensor([1.0, bad]), signed=signed)


def test_extremes_of_float32() -> None:
    largest, smallest = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
    values, counts = gathered(torch.tensor([largest, 1.0, -largest, 0.0])).distribution()
    assert counts.tolist() == [1, 1, 1, 1]
    assert bool(torch.isfinite(values).all())
    assert gathered(torch.tensor([smallest, 0.0, -1e-45])).distribution()[1].tolist() == [1, 1, 1]
    assert gathered(torch.tensor(2.5)).largest == 2.5  # a tensor without dimensions
    assert gathered(torch.empty(0, 3)).count == 0

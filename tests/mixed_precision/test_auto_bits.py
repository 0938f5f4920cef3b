"""Budgets in text, and the search for the least loss within one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkd_deploy import UserError, create_model, load_dataset, prepare
from qkd_deploy.data import normalize
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.mixed_precision.choose import choose_bits
from qkd_deploy.mixed_precision.costs import bit_operations
from qkd_deploy.mixed_precision.knapsack import least_loss

DIGITS = load_dataset("digits")
IMAGES = normalize(DIGITS.train.images[:64])


@pytest.mark.parametrize(
    ("text", "kind", "limit", "relative"),
    [
        ("size<=2MB", "size", 2e6, False),
        (" size <= 1.5 MiB ", "size", 1.5 * 2**20, False),
        ("size<=800kB", "size", 8e5, False),
        ("size<=60%", "size", 0.6, True),
        ("bitops<=1.5G", "bitops", 1.5e9, False),
        ("bitops<=40%", "bitops", 0.4, True),
    ],
)
def test_budgets(text: str, kind: str, limit: float, relative: bool) -> None:
    found = Budget.parse(text)
    assert (found.kind, found.limit, found.relative) == (kind, limit, relative)
    assert found.amount(100.0) == (limit * 100 if relative else limit)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("2MB", "not of the form KIND<=NUMBER; write size<=2MB"),
        ("size<2MB", "not of the form"),
        ("size<=-2MB", "not of the form"),
        ("size<=2MB<=3", "not of the form"),
        ("sise<=2MB", "an unknown 'sise'"),
        ("size<=2Mb", "the unit 'Mb'; choose one of B, kB"),
        ("size<=2", "the unit ''"),
        ("bitops<=2MB", "the unit 'MB'; choose one of K"),
        ("size<=0kB", "allows nothing"),
        ("latency<=5ms", "every kernel of ONNX Runtime takes 8-bit codes"),
        ("macs<=5M", "they count no bits"),
    ],
)
def test_what_is_no_budget(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Budget.parse(text)


@given(st.integers(1, 5), st.integers(2, 3), st.integers(0, 2**32), st.floats(0, 1.2))
def test_no_choice_within_the_limit_loses_less(rows: int, columns: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    costs, losses = rng.uniform(1, 10, (rows, columns)), rng.uniform(0, 1, (rows, columns))
    least, most = costs.min(1).sum(), costs.max(1).sum()
    limit = least + share * (most - least)
    picked = least_loss(costs, losses, limit)
    assert picked is not None
    own = np.arange(rows)
    assert costs[own, picked].sum() <= limit * (1 + 1e-12)
    # costs are rounded up to a 4096th of the room, once for each layer
    tight = least + (limit - least) * (1 - rows / 4096)
    every = (np.array(choice) for choice in itertools.product(range(columns), repeat=rows))
    best = min(losses[own, choice].sum() for choice in every if costs[own, choice].sum() <= tight + 1e-12)
    assert losses[own, picked].sum() <= best + 1e-9


def test_less_than_the_least_is_nothing() -> None:
    assert least_loss(np.array([[3.0, 1.0]]), np.zeros((1, 2)), 0.9) is None


def bits_of(network: torch.nn.Module, bits: str, bits_for: Mapping[str, str]) -> PreparedModel:
    return prepare(network, bits, (IMAGES[:1],), overrides={"layer1.*.conv1": "w8a8", **bits_for})


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made = create_model("resnet8", 10, 1)
    made(IMAGES)
    return made.eval()


def chosen(network: torch.nn.Module, budget: str, candidates: tuple[str, ...] = ("w4a4", "w8a8")):  # type: ignore[no-untyped-def]
    def measure(_: PreparedModel) -> float:
        raise AssertionError("operations need no file")

    return choose_bits(
        lambda bits, bits_for: bits_of(network, bits, bits_for),
        IMAGES,
        Budget.parse(budget),
        candidates,
        base="w8a8",
        images=64,
        measure=measure,
    )


def test_bits_are_chosen_only_where_nothing_else_decides_them(network: torch.nn.Module) -> None:
    choice = chosen(network, "bitops<=60%")
    layers = {
        name for name, module in network.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    }
    assert set(choice.bits_for) == layers - {"conv1", "fc", "layer1.0.conv1"}  # the ends, and an override
    assert set(choice.bits_for.values()) == {"w8a8", "w4a4"}
    assert (
        choice.cost == bit_operations(bits_of(network, "w8a8", choice.bits_for)) <= choice.limit == 0.6 * choice.widest
    )
    assert choice.predicted == pytest.approx(choice.cost)
    assert choice.options("w8a8").count("--bits-for") == list(choice.bits_for.values()).count("w4a4")
    generous = chosen(network, "bitops<=100%")
    assert set(generous.bits_for.values()) == {"w8a8"} and generous.loss < choice.loss


def test_impossible_budgets_say_what_is_possible(network: torch.nn.Module) -> None:
    least = bit_operations(bits_of(network, "w4a4", {})) / 1e6
    with pytest.raises(UserError, match=f"the smallest possible with these bits is {least:,.3f} M bit operations"):
        chosen(network, "bitops<=1%")
    with pytest.raises(UserError, match="give two or more, such as"):
        chosen(network, "bitops<=50%", ("w4a4", "W4A4"))

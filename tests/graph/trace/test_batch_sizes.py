"""Numbers that follow the batch are known at many batch sizes, and none of these is baked into the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deployment import noise
from placement import Small

from qkd_deploy import UserError, prepare
from qkd_deploy.graph.trace.batch_sizes import (
    BATCHES,
    Unknown,
    agree,
    at_other_batches,
    is_on_a_line,
    more_examples,
    two_or_more,
)

IMAGES = noise(3, 3, 8, 8)


BATCH_DECISIONS: dict[str, Callable[[Any], Any]] = {
    "equal to one": lambda b: b == 1,
    "many": lambda b: b > 3000,
    "even": lambda b: b % 2 == 0,
    "blocks": lambda b: b // 4096,
    "as an index": lambda b: [0, 1][b],
}


@pytest.mark.parametrize("decision", BATCH_DECISIONS)
def test_decisions_that_another_batch_size_would_change_are_refused(decision: str) -> None:
    def choose(n: Any, x: Any) -> Any:
        return x if BATCH_DECISIONS[decision](x.shape[0]) else x * 2

    with pytest.raises(UserError, match="batch size"):
        prepare(Small(choose), "w4a4", (noise(2, 3, 8, 8),))


def test_decisions_that_hold_for_every_batch_are_taken() -> None:
    def choose(n: Any, x: Any) -> Any:
        same = x.shape == (2 * x).shape and x.numel() // x.shape[0] == 512 and x.shape[0] > 0
        return x if same else x.nonzero()

    assert prepare(Small(choose), "w4a4", (IMAGES,)).account.floats == ()


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "factor": lambda x, b: x * (1 + b // 64),
    "summand": lambda x, b: x + b // 64,
    "remainder": lambda x, b: x * (1 + b % 3),
    "power": lambda x, b: x ** (1 + b // 64),
    "bound": lambda x, b: x.clamp(max=1 + b // 64),
    "border": lambda x, b: torch.nn.functional.pad(x, (b // 64, 0, 0, 0)),
    "slice": lambda x, b: x[:, :, b // 64 :],
}


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_numbers_that_jump_with_the_batch_are_refused(arithmetic: str) -> None:
    """At 3 and at 6 images all of them look like numbers of the network."""
    with pytest.raises(UserError, match="batch size"):
        prepare(Small(lambda n, x: ARITHMETIC[arithmetic](x, x.shape[0])), "w4a4", (IMAGES,))


def test_numbers_in_proportion_to_the_batch_are_sizes() -> None:
    def grouped(n: Any, x: Any) -> Any:
        return x.view(x.shape[0] // 3, 3, *x.shape[1:]).flatten(0, 1) + x

    assert prepare(Small(grouped), "w4a4", (IMAGES,)).account.floats == ()


def test_a_line_through_two_batches_is_followed_at_their_multiples_only() -> None:
    halves = (4, 8, *(b // 2 for b in BATCHES))
    steps = (0, 0, *(b // 64 for b in BATCHES))
    assert is_on_a_line(halves, 8)
    assert not is_on_a_line(steps, 8)
    assert is_on_a_line(((8, 3), (16, 3), *((b, 3) for b in BATCHES)), 8)
    assert not is_on_a_line((True, True, *(b < 64 for b in BATCHES)), 8)


def test_more_examples_are_twice_as_many_in_the_same_range() -> None:
    pixels = torch.arange(12).view(2, 6)
    assert more_examples(pixels).tolist() == [*pixels.tolist(), list(range(11, 5, -1)), list(range(5, -1, -1))]
    doubled = more_examples(IMAGES)
    assert torch.equal(doubled[:3], IMAGES)
    assert doubled.shape[0] == 6
    assert not torch.equal(doubled[3:], IMAGES)
    assert IMAGES.min() <= doubled.min() <= doubled.max() <= IMAGES.max()
    assert torch.equal(more_examples(IMAGES), doubled), "the same at every call"
    assert more_examples("mode") == "mode"


def test_a_single_example_is_doubled() -> None:
    assert two_or_more({"x": IMAGES})["x"] is IMAGES
    assert two_or_more({"x": IMAGES[:1], "y": IMAGES[:1]})["y"].shape[0] == 2


def test_sizes_lie_on_a_line_through_two_batches() -> None:
    at_four = BATCHES.index(4)
    sizes = at_other_batches((3, 7, (6,)), (6, 7, (12,)), 3)
    assert sizes[at_four] == (4, 7, (8,))
    assert at_other_batches("cpu", "cpu", 3)[at_four] == "cpu"
    assert isinstance(at_other_batches(1, 2, 3)[at_four], Unknown), "a third of the batch"
    assert isinstance(at_other_batches((1, 5), (2, 5), 3)[at_four], Unknown)
    assert isinstance(at_other_batches("a", "b", 3)[at_four], Unknown)


def test_values_agree_in_type_and_value() -> None:
    assert agree((2, 2, 2))
    assert not agree((2, 2, 3))
    assert not agree((1, True))
    unknown = Unknown()
    assert not agree((unknown, unknown))
    assert not agree((2, unknown))

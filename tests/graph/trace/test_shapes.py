"""Facts of a value are read from two batch sizes; sizes that follow neither are refused."""

from __future__ import annotations

import pytest
import torch

from qkd_deploy.graph.trace.errors import Untraceable
from qkd_deploy.graph.trace.shapes import Facts, facts_of, has_tensor, require_open_batch, tensors_in

ONE, TWO = torch.zeros(4, 3, 2), torch.zeros(4, 6, 2)


def test_facts_of_a_tensor() -> None:
    facts = facts_of(ONE.long(), TWO.long(), unchanged=True, line="net.py:3")
    assert facts == Facts((4, 3, 2), (1,), torch.int64, unchanged=True, line="net.py:3")


def test_facts_of_a_number() -> None:
    assert facts_of(3, 6) == Facts(is_python=True, value=3)
    assert facts_of(3, 3) == Facts(is_python=True, value=3, is_fixed=True)
    assert not facts_of(1, True).is_fixed
    assert not facts_of(0, 0, 0, 1).is_fixed, "the same at two batch sizes, another at a third"


def test_facts_of_several_tensors() -> None:
    assert facts_of((ONE, 3), (TWO, 6)) == Facts()


def test_tensors_are_found_at_any_depth() -> None:
    assert [tensor.shape[1] for tensor in tensors_in({"a": [ONE, 1], "b": (TWO,)})] == [3, 6]
    assert has_tensor([[ONE]])
    assert not has_tensor([1, "a", None])


def test_sizes_are_fixed_or_follow_the_batch() -> None:
    require_open_batch(ONE, TWO)
    require_open_batch(ONE, ONE)


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        pytest.param(ONE * 1j, TWO * 1j, "its result is complex", id="complex"),
        pytest.param(ONE[0], TWO, r"one batch size only: shapes \[3, 2\] and \[4, 6, 2\]", id="a lost dimension"),
        pytest.param(ONE, torch.zeros(4, 5, 2), r"depends on the values .*\[4, 5, 2\]", id="no multiple"),
    ],
)
def test_sizes_of_another_kind_are_refused(one: torch.Tensor, two: torch.Tensor, words: str) -> None:
    with pytest.raises(Untraceable, match=words):
        require_open_batch(one, two)

"""In-place operations become their ordinary twins, and only they."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.trace.in_place import out_of_place, switch_off


def clamp_(x: Tensor) -> Tensor:
    """A function of the user's, named like one in place."""
    return x


CALLS: dict[str, tuple[Any, bool, Any]] = {
    "operator": (operator.iadd, False, operator.add),
    "function of torch": (torch.sigmoid_, False, torch.sigmoid),
    "function of both": (torch.relu_, False, F.relu),
    "function of nn.functional": (F.leaky_relu_, False, F.leaky_relu),
    "method": ("add_", True, "add"),
    "ordinary operator": (operator.add, False, None),
    "ordinary function": (torch.relu, False, None),
    "ordinary method": ("add", True, None),
    "special method": ("__add__", True, None),
    "method without a twin": ("fill_nothing_", True, None),
    "function of the user's": (clamp_, False, None),
    "module": ("layers.relu_", False, None),
    "nothing": (None, False, None),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls_get_their_ordinary_twin(case: str) -> None:
    target, method, twin = CALLS[case]
    node = Node("y", "call", (Ref("x"),), target=target, method=method)
    assert out_of_place(node) == (twin is not None)
    assert node.target == (target if twin is None else twin)


def test_the_option_is_switched_off() -> None:
    node = Node("y", "call_function", (Ref("x"),), {"inplace": True}, target=F.relu)
    assert out_of_place(node)
    assert (node.target, node.kwargs) == (F.relu, {"inplace": False})
    assert not out_of_place(node)


def test_modules_are_switched_off() -> None:
    shared = nn.ReLU(inplace=True)
    network = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    assert switch_off(network) == {"0", "2.0"}
    assert not shared.inplace
    assert switch_off(network) == set()

"""Questions about single calls: may the result be taken apart, is it a number, does it describe a tensor?"""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from deployment import noise
from torch import Tensor, fx

from qkd_deploy.graph.trace.calls import Call
from qkd_deploy.graph.trace.proxies import Concrete

IMAGES = noise(3, 4)


def proxy(*seen: Any) -> Concrete:
    graph = fx.Graph()
    return Concrete(graph.placeholder("x"), fx.Tracer(), seen)


def opaque(x: Tensor) -> int:
    return 1


TENSOR, SIZE, NUMBER = proxy(IMAGES, IMAGES), proxy(torch.Size((3, 4)), torch.Size((6, 4))), proxy(3, 6, 1, 2)


def test_values_stand_in_for_proxies() -> None:
    call = Call("call_method", "view", (TENSOR, [NUMBER, -1]), {"copy": SIZE})
    assert call.at(1) == Call("call_method", "view", (TENSOR.seen[1], [6, -1]), {"copy": torch.Size((6, 4))})
    assert call.first_tensor is IMAGES
    assert Call("call_function", len, (SIZE,)).first_tensor is None
    assert Call("placeholder", "x").first_tensor is None


@pytest.mark.parametrize(
    ("kind", "target", "is_open"),
    [
        ("call_function", torch.chunk, True),
        ("call_function", operator.getitem, True),
        ("call_function", getattr, True),
        ("call_function", opaque, False),
        ("call_module", "attention", True),
        ("call_method", "chunk", True),
    ],
)
def test_results_of_opaque_functions_stay_whole(kind: str, target: Any, is_open: bool) -> None:
    assert Call(kind, target).is_open == is_open


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(Call("call_function", operator.mul, (NUMBER, 2)), True, id="an operator of Python"),
        pytest.param(Call("call_method", "__rmul__", (NUMBER, 2)), True, id="a method of a number"),
        pytest.param(Call("call_function", torch.zeros, (NUMBER, 2)), False, id="a function of PyTorch"),
        pytest.param(Call("call_function", operator.mul, (NUMBER, TENSOR)), False, id="a tensor that is computed"),
        pytest.param(Call("call_function", operator.mul, (NUMBER, IMAGES)), False, id="a constant tensor"),
        pytest.param(Call("call_function", operator.mul, (2, 3)), False, id="no proxy"),
        pytest.param(Call("call_module", "double", (NUMBER,)), False, id="a module"),
    ],
)
def test_arithmetic_on_numbers(call: Call, expected: bool) -> None:
    assert call.is_arithmetic == expected


@pytest.mark.parametrize(
    ("kind", "target", "operand", "expected"),
    [
        ("call_method", "size", TENSOR, True),
        ("call_method", "item", TENSOR, False),
        ("call_method", "tolist", TENSOR, False),
        ("call_function", getattr, TENSOR, True),
        ("call_function", torch.numel, TENSOR, True),
        ("call_function", torch.allclose, TENSOR, False),
        ("call_function", operator.getitem, SIZE, True),
        ("call_method", "__getitem__", SIZE, True),
        ("call_function", operator.getitem, TENSOR, False),
    ],
)
def test_descriptions_read_no_elements(kind: str, target: Any, operand: Concrete, expected: bool) -> None:
    assert Call(kind, target, (operand,)).is_description == expected

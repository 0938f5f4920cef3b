"""Proxies answer what is the same for every batch, and refuse what the batch or an element decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from deployment import noise
from torch import Tensor, fx, nn

from qkd_deploy.graph.trace.batch_sizes import Unknown
from qkd_deploy.graph.trace.errors import Untraceable
from qkd_deploy.graph.trace.proxies import Concrete, tensors_by_isinstance
from qkd_deploy.graph.trace.tracer import ConcreteTracer, Leaves

IMAGES = noise(3, 4)


def proxy(*seen: Any) -> Any:
    return Concrete(fx.Graph().placeholder("x"), fx.Tracer(), seen)


ANSWERS: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "a comparison": (proxy(1, 1, 1), bool, True),
    "an index": (proxy(2, 2), lambda x: [5, 6, 7][x], 7),
    "a number": (proxy(2, 2.0), lambda x: proxy(2.5, 2.5).__float__(), 2.5),
    "a length": (proxy((3, 4), (6, 4)), len, 2),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_is_the_same_for_every_batch_is_answered(case: str) -> None:
    value, ask, answer = ANSWERS[case]
    assert ask(value) == answer


REFUSED: dict[str, tuple[Any, Callable[[Any], Any], str]] = {
    "elements": (proxy(IMAGES, IMAGES), bool, "reads the values of a tensor"),
    "an element in a loop": (proxy(IMAGES, IMAGES), lambda x: 1.0 in x, "reads the values of a tensor"),
    "the batch": (proxy(3, 6), int, "turns the batch size"),
    "the batch, where it is even": (proxy(3, 3, Unknown()), int, "turns the batch size"),
    "two numbers": (proxy(1, 1.5), float, "turns the batch size"),
    "a length": (proxy((1,), (1, 2)), len, "turns the batch size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_batch_or_an_element_decides_is_refused(case: str) -> None:
    value, ask, words = REFUSED[case]
    with pytest.raises(Untraceable, match=words):
        ask(value)


def test_attributes_that_tensors_lack_are_the_users_error() -> None:
    with pytest.raises(AttributeError):
        _ = proxy(IMAGES, IMAGES).height
    assert not hasattr(proxy(IMAGES, IMAGES), "__jax_array__")


class Sized(nn.Module):
    """Asks its tensor for everything that Python can ask of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}

    def forward(self, x: Any) -> Any:
        batch, features = x.shape
        doubled = batch
        doubled *= 2
        self.answers.update(
            features=features, holds=batch in x.shape, is_tensor=isinstance(x, Tensor), is_number=isinstance(batch, int)
        )
        total = x
        total += 1
        return x.view((math.floor(doubled) + math.ceil(doubled)) // 4, features) + total.view(doubled // 2, -1)


def test_a_forward_computes_with_sizes() -> None:
    network = Sized().eval()
    tracer = ConcreteTracer(network, {"x": IMAGES.clone()}, Leaves(frozenset(), (), {}))
    names = [getattr(node.target, "__name__", str(node.target)) for node in tracer.record().nodes]
    assert network.answers == {"features": 4, "holds": True, "is_tensor": True, "is_number": True}
    assert "imul" not in names, "numbers are not changed in place"
    assert "iadd" in names, "tensors are"


def test_isinstance_is_the_users_own_again_afterwards() -> None:
    value = proxy(IMAGES, IMAGES)
    with tensors_by_isinstance(Sized()):
        assert isinstance(value, Tensor)
    assert not isinstance(value, Tensor)
    with pytest.raises(RuntimeError), tensors_by_isinstance(Sized()):
        raise RuntimeError
    assert not isinstance(value, Tensor)

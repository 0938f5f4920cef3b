"""Which networks are cut in front of a tail that decodes, where, and what both parts compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_detector import images, prepared_detector
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.integer.cut import find_cut, front_of
from qkd_deploy.graph.integer.model import FrozenModel


class Ends(nn.Module):
    """Maps of an image and its classes, and what is made of both."""

    places: Tensor
    prior: Tensor

    def __init__(self, end: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.classes, self.end = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 5), end
        self.register_buffer("places", torch.rand(1, 4, 16, 16))
        self.register_buffer("prior", torch.rand(5))

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        return self.end(self, maps, self.classes(maps.mean((2, 3))))


def frozen(end: Callable[[Any, Tensor, Tensor], Any]) -> FrozenModel:
    model = qkd.prepare(Ends(end).eval(), "w8a8", (images(2),))
    qkd.initialize(model, images(2))
    return qkd.freeze(model.eval())


WHOLE: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "classes": lambda n, maps, logits: logits,
    "probabilities": lambda n, maps, logits: logits.softmax(1),
    "a prior": lambda n, maps, logits: (logits + n.prior).softmax(1),
    "numbers by channel": lambda n, maps, logits: maps.sigmoid() * n.prior[:4].view(4, 1, 1),
    "maps of probabilities": lambda n, maps, logits: (maps.sigmoid(), logits.softmax(1)),
    "anchors that a layer reads": lambda n, maps, logits: n.conv((maps * n.places)[:, :3]),
}


@pytest.mark.parametrize("end", WHOLE)
def test_networks_that_do_not_decode_are_whole(end: str) -> None:
    model = frozen(WHOLE[end])
    assert find_cut(model) is None and front_of(model) is model


CUT: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], tuple[str, ...]]] = {
    "anchors": (lambda n, maps, logits: maps.exp() * n.places, ("conv",)),
    "anchors and classes": (lambda n, maps, logits: (maps.sigmoid() + n.places, logits), ("conv", "classes")),
    "anchors and the image": (lambda n, maps, logits: (maps.sigmoid() + n.places, maps), ("conv",)),
    "anchors themselves": (lambda n, maps, logits: (maps.sigmoid() + n.places, n.places), ("conv",)),
    "softmax beside anchors": (
        lambda n, maps, logits: [logits.softmax(1), maps.tanh() - n.places],
        ("conv", "classes"),
    ),
}


@pytest.mark.parametrize("end", CUT)
def test_the_cut_lies_behind_the_last_integer_kernels(end: str) -> None:
    make, tensors = CUT[end]
    model = frozen(make)
    cut, front = find_cut(model), front_of(model)
    assert cut is not None and cut.tensors == tensors and find_cut(front) is None
    assert set(front.codes(images(2))) == set(model.codes(images(2)))
    maps = front(images(3, seed=1))
    assert list(maps) == list(tensors) and all(len(value) == 3 for value in maps.values())


def test_a_detector_is_cut_behind_its_convolutions() -> None:
    model = qkd.freeze(prepared_detector())
    cut = find_cut(model)
    assert cut is not None and cut.tensors == ("boxes.0", "boxes.1", "scores.0", "scores.1")
    assert {"mean.conv", "sigmoid"} <= set(cut.computed) < set(cut.behind)
    assert all(model.graph.node(name).quantizer is not None for name in cut.tensors)


def test_the_integer_part_takes_other_sizes_as_the_whole_model_does() -> None:
    model = qkd.freeze(prepared_detector())
    other = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    front = front_of(model)
    boxes, codes = front(other)["boxes.0"], model.codes(other)
    assert boxes.shape == (2, 64, 32, 16) and front.codes(other).keys() == codes.keys()
    assert all((front.codes(other)[name] == array).all() for name, array in codes.items())

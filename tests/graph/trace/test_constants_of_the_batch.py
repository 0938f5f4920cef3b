"""Constants that take the batch as a size, as the masks of windowed attention do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deployment import noise
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.errors import UserError

IMAGES = noise(2, 3, 8, 8)
MASK = torch.arange(8.0).view(1, 8, 1, 1)
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "expand": lambda y: MASK.expand(y.shape[0], -1, -1, -1),
    "repeat": lambda y: MASK.repeat(y.shape[0], 1, 1, 1),
    "made of a size": lambda y: (torch.ones(8) * 0.5).reshape(1, 8, 1, 1).expand(y.shape[0], 8, 6, 6),
}


class Net(nn.Module):
    def __init__(self, constant: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last, self.constant = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), constant

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.last(y + 0.1 * self.constant(y))


@pytest.mark.parametrize("way", WAYS)
def test_the_batch_stays_open(way: str, tmp_path: Path) -> None:
    network = Net(WAYS[way]).eval()
    model = qkd.prepare(network, "w8a8", (IMAGES,))
    qkd.initialize(model, IMAGES)
    with torch.no_grad():
        for images in (1, 2, 5):
            inputs = noise(images, 3, 8, 8)
            expected = network(inputs)
            assert float((model.eval()(inputs) - expected).abs().max()) < 0.1 * float(expected.abs().max())
    qkd.export_onnx(model, tmp_path / "m.onnx")
    for images in (1, 5):
        report = qkd.verify_onnx(tmp_path / "m.onnx", inputs=noise(images, 3, 8, 8).numpy(), frozen=qkd.freeze(model))
        assert report.passed, report.verdict


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "expand to a size": lambda y: MASK.expand(y.size()),
    "broadcast_to": lambda y: MASK.broadcast_to((y.shape[0], 8, 1, 1)),
    "tile": lambda y: MASK.tile((y.shape[0], 1, 1, 1)),
    "repeat and view": lambda y: MASK.flatten().repeat(y.shape[0]).view(y.shape[0], 8, 1, 1),
}


@pytest.mark.parametrize("way", OTHERS)
def test_other_forms_are_refused_with_a_way_out(way: str) -> None:
    with pytest.raises(UserError, match="let it make one sample and broadcast"):
        qkd.prepare(Net(OTHERS[way]).eval(), "w8a8", (IMAGES,))
    assert qkd.prepare(Net(lambda y: MASK).eval(), "w8a8", (IMAGES,)).layers()


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "type_as": lambda y: torch.arange(6).type_as(y),
    "new_full": lambda y: y.new_full((6,), 0.5),
    "new_ones and new_zeros": lambda y: y.new_ones(6) + y.new_zeros(6),
    "new_tensor": lambda y: y.new_tensor([1.0, 0, 0, 0, 0, 2.0]),
    "anchors": lambda y: torch.meshgrid(torch.arange(6).type_as(y), torch.arange(6).type_as(y), indexing="ij")[0] + 0.5,
}


@pytest.mark.parametrize("way", KINDS)
def test_what_owes_only_its_type_to_a_tensor_is_a_constant(way: str) -> None:
    model = qkd.prepare(Net(KINDS[way]).eval(), "w8a8", (IMAGES,))
    assert model.account.floats == ()
    assert [node.kind for node in model.graph.nodes].count("constant") == 1


def test_tensors_have_their_own_methods_again() -> None:
    before = {name: getattr(Tensor, name) for name in ("expand", "view")}
    qkd.prepare(Net(WAYS["expand"]).eval(), "w8a8", (IMAGES,))
    assert all(getattr(Tensor, name) is method and name not in vars(Tensor) for name, method in before.items())

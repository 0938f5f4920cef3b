"""A model whose scales nothing has set answers all inputs alike: nothing takes it, and what sets them does so whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.registry import QUANTIZERS


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def prepared(bits: str = "w8a8", **settings: Any) -> PreparedModel:
    return qkd.prepare(network(), bits, images(), **settings)


TAKERS: dict[str, Callable[[PreparedModel, Path], Any]] = {
    "freeze": lambda model, folder: qkd.freeze(model),
    "export": lambda model, folder: qkd.export_onnx(model, folder / "m.onnx"),
    "a training step": lambda model, folder: model.train()(images()),
    "reconstruct": lambda model, folder: qkd.reconstruct(model, network(), images()),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("setter", ["initialize", "calibrate"])
def test_scales_that_nothing_has_set_are_refused(taker: str, setter: str, tmp_path: Path) -> None:
    """The way out is followed to the end."""
    model = prepared()
    with pytest.raises(qkd.UserError, match=r"no scale .* ever set.* call initialize.* or calibrate"):
        TAKERS[taker](model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (qkd.initialize if setter == "initialize" else qkd.calibrate)(model, images())
    TAKERS[taker](model, tmp_path)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize(("bits", "scales"), [("w4a4", "channel"), ("w2a2", "layer"), ("w4a32", "channel")])
def test_every_quantizer_knows_that_nothing_set_it(quantizer: str, bits: str, scales: str) -> None:
    model = prepared(bits, quantizer=quantizer, weight_scales=scales)
    with pytest.raises(qkd.UserError, match="no scale"):
        qkd.freeze(model)
    model.load_state_dict(prepared(bits, quantizer=quantizer, weight_scales=scales).state_dict())  # as fresh as before
    with pytest.raises(qkd.UserError, match="no scale"):
        qkd.freeze(model)
    other = prepared(bits, quantizer=quantizer, weight_scales=scales)
    qkd.initialize(other, images())
    model.load_state_dict(other.state_dict())
    qkd.freeze(model)


def test_a_scale_of_one_is_a_scale() -> None:
    """What counts is that any scale was set, not what it is."""
    model = prepared()
    model.weight(model.layers()[0]).set_scale(0.5)
    qkd.freeze(model)


EMPTY: dict[str, Callable[[PreparedModel], Any]] = {
    "initialize with no images": lambda model: qkd.initialize(model, images(0)),
    "initialize with images of no pixels": lambda model: qkd.initialize(model, torch.zeros(4, 1, 0, 8)),
    "initialize with nothing": lambda model: qkd.initialize(model),
    "calibrate with a batch of no images": lambda model: qkd.calibrate(model, [images(0)]),
    "calibrate with an empty batch behind others": lambda model: qkd.calibrate(model, [images(), images(0)]),
    "calibrate with a tensor of no images": lambda model: qkd.calibrate(model, images(0)),
    "calibrate with no batch": lambda model: qkd.calibrate(model, []),
    "calibrate with an iterator that is used up": lambda model: qkd.calibrate(model, iter([])),
}


@pytest.mark.parametrize("call", EMPTY)
def test_nothing_to_initialize_with_is_refused(call: str) -> None:
    with pytest.raises(qkd.UserError, match=r"give .*batch|at least one|give a tensor"):
        EMPTY[call](prepared())


def test_a_failed_initialize_leaves_the_scales_as_they_were() -> None:
    """Half of the scales would pass for an initialised model."""

    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(144, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last((self.first(x) * 1e30).flatten(1).square())
            return result

    model = qkd.prepare(Breaks().eval(), "w8a8", images())
    with pytest.raises(qkd.UserError, match="not finite"):
        qkd.initialize(model, images() * 1e8)
    with pytest.raises(qkd.UserError, match="no scale"):
        qkd.freeze(model)
    working = prepared()
    qkd.initialize(working, images())
    before = {name: tensor.clone() for name, tensor in working.state_dict().items()}
    with pytest.raises(qkd.UserError, match="not finite"):
        qkd.initialize(working, images() * torch.inf)
    assert all(torch.equal(before[name], tensor) for name, tensor in working.state_dict().items())

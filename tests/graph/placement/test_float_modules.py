"""Modules that the user keeps in float by a pattern of their path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.ops.float_ops import KEPT
from qkd_deploy.graph.prepared import PreparedModel


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv2(torch.relu(self.norm(self.conv1(x)))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3), nn.Sequential(Block(), Block())
        self.head = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(288, 4))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.blocks(torch.relu(self.stem(x))))
        return result


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def prepared(overrides: dict[str, str], bits: str = "w4a4", **settings: Any) -> PreparedModel:
    model = qkd.prepare(Net().eval(), bits, images(), overrides=overrides, **settings)
    qkd.initialize(model, images())
    return model.eval()


def floats(model: PreparedModel) -> list[str]:
    return [entry.name for entry in model.account.floats if entry.reason == KEPT]


CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "a layer": ({"head.3": "float"}, ["head.3"]),
    "a module with all inside it": ({"blocks.0": "float"}, ["blocks.0"]),
    "the modules in another": ({"blocks.*": "float"}, ["blocks.0", "blocks.1"]),
    "modules of a kind by name": ({"*.conv2": "float"}, ["blocks.0.conv2", "blocks.1.conv2"]),
    "functions in place, and dropout": ({"head": "float"}, ["head"]),
    "their parts one by one": ({"head.*": "float"}, ["head.0", "head.1", "head.2", "head.3"]),
    "an exception inside": (
        {"blocks.0": "float", "blocks.0.conv2": "w8a8"},
        ["blocks.0.conv1", "blocks.0.norm"],
    ),
    "an exception of an exception": (
        {"blocks.*": "float", "blocks.0.*": "w8a8", "blocks.0.conv2": "float"},
        ["blocks.0.conv2", "blocks.1"],
    ),
}


@pytest.mark.parametrize(("case", "bits"), [*((case, "w8a8") for case in CASES), ("an exception inside", "w4a32")])
def test_modules_stay_in_float(case: str, bits: str, tmp_path: Path) -> None:
    """They are in the account, computed as PyTorch does, exported and verified."""
    overrides, expected = CASES[case]
    if bits == "w4a32":
        overrides = {pattern: value.replace("w8a8", "w8a32") for pattern, value in overrides.items()}
    model = prepared(overrides, bits)
    found = floats(model)
    assert [name for name in found if name != "head.2"] == [name for name in expected if name != "head.2"]
    assert not any(key.replace("/", ".").startswith(tuple(expected)) for key in model.layer_bits)
    qkd.export_onnx(model, tmp_path / "m.onnx")
    report = qkd.verify_onnx(tmp_path / "m.onnx", frozen=qkd.freeze(model), inputs=images(8).numpy())
    assert [level for level in report.levels if level.status == "failed"] == []


@pytest.mark.parametrize("case", CASES)
def test_they_learn_as_they_are(case: str) -> None:
    """Their weights have no quantizer, and gradients."""
    model = prepared(CASES[case][0]).train()
    model(images()).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.network.parameters() if p.ndim > 1)
    assert not any(key.startswith(name) for key in model.weights for name in CASES[case][1])


def test_first_and_last_layers_stay_where_they_are() -> None:
    """A float head is the last layer all the same: what is in front of it keeps the network's bits."""
    usual = {name: str(bits) for name, bits in prepared({}).layer_bits.items()}
    assert usual["head.3"] == usual["stem"] == "w8a8"
    ends = prepared({"head": "float", "stem": "float"}).layer_bits
    assert {name: str(bits) for name, bits in ends.items()} == {
        name: bits for name, bits in usual.items() if name not in ("head.3", "stem")
    }
    function = prepared({"head.1": "float"}).layer_bits  # no layer: it stands in nobody's place
    assert {name: str(bits) for name, bits in function.items()} == usual


class Spectrum(nn.Module):
    """What cannot be prepared otherwise: complex numbers in between."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).abs()


def test_what_cannot_be_prepared_can_be_kept_in_float(tmp_path: Path) -> None:
    """The sentence's way out is followed to the end."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Spectrum(), nn.Flatten(), nn.Linear(288, 4)).eval()
    with pytest.raises(qkd.UserError, match=r"overrides=\{'2': 'float'\}, or --float 2 on the command line"):
        qkd.prepare(network, "w8a8", images())
    model = qkd.prepare(network, "w8a8", images(), overrides={"2": "float"})
    qkd.initialize(model, images())
    qkd.export_onnx(model.eval(), tmp_path / "m.onnx")
    assert floats(model) == ["2"]
    assert qkd.verify_onnx(tmp_path / "m.onnx").levels[1].status == "passed"


class ScaledNorm(nn.BatchNorm2d):
    """A batch norm of a derived class with its activation function inside, as model libraries write them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(super().forward(x))
        return result


@pytest.mark.parametrize("pattern", ["1", "1.1"])
def test_a_derived_batch_norm_inside_keeps_its_function(pattern: str) -> None:
    inner = nn.Sequential(nn.Conv2d(8, 8, 1), ScaledNorm(8))
    inner[1].running_mean.fill_(0.1)  # type: ignore[operator, union-attr]  # of a trained one
    network = nn.Sequential(nn.Conv2d(3, 8, 3), inner, nn.Flatten(), nn.Linear(288, 4)).eval()
    model = qkd.prepare(network, "w8a8", images(), overrides={pattern: "float"})
    qkd.initialize(model, images())
    x = images() * 0.3
    assert (model.eval()(x) - network(x)).abs().max() < 0.1 * network(x).abs().max()
    assert floats(model) == [pattern]


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no module": ({"blocks.7": "float"}, r"'blocks\.7' matches no module of the network; did you mean 'blocks\.\d'"),
    "everything": ({"*": "float"}, "narrow the pattern '\\*'"),
    "bits inside it, before": ({"head.3": "w8a8", "head": "float"}, "leave one of both out"),
    "no bits": ({"head": "fp32"}, "bits 'fp32'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_patterns_that_ask_for_nothing_are_refused(case: str) -> None:
    overrides, message = WRONG[case]
    with pytest.raises(qkd.UserError, match=message):
        qkd.prepare(Net().eval(), "w4a4", images(), overrides=overrides)

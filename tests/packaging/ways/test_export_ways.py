"""Ways out of networks and options that cannot be written to a file: what the sentence recommends writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from scales import learned, multiply
from torch import Tensor, nn
from ways import Way, follow, require_all

import qkd_deploy as qkd
from qkd_deploy.export.onnx_export import build_model

TEST = "tests/packaging/ways/test_export_ways.py::test_the_way_out_works"
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution with a batch norm that flips signs, and a layer behind ``middle``."""

    def __init__(self, middle: Any = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
        self.norm.weight.data.neg_()
        self.middle = middle

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.norm(self.conv(x))))


def written(network: nn.Module, bits: str = "w8a8", examples: Tensor = IMAGES, **settings: Any) -> onnx.ModelProto:
    """The file of a network, with options of ``prepare`` and of ``export_onnx``."""
    form = {key: settings.pop(key) for key in ("input", "weights", "dynamic_size") if key in settings}
    prepared = qkd.prepare(network.eval(), bits, examples, **settings)
    qkd.initialize(prepared, examples)
    for quantizer in learned(prepared.weights) if "weight_range" in settings else ():
        multiply(quantizer, 0.1)  # so that codes reach the ends of their range
    return build_model(prepared, **form)[0]


def takes(model: onnx.ModelProto, kind: int) -> None:
    assert model.graph.input[0].type.tensor_type.elem_type == kind


def of_copies(count: int) -> nn.Module:
    return Net(lambda y: y[..., None].expand(-1, -1, -1, -1, count)[..., 0])


def of_similarities(path: Path, **form: Any) -> None:
    """A sum over all places of an image, which no bound holds at other sizes."""
    written(nn.Sequential(nn.Conv2d(3, 8, 3), Gram(), nn.Linear(8, 5)), **form)


class Gram(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return y.flatten(2) @ y.flatten(2).mT


class Log(nn.Module):
    """A logarithm of what is positive for the examples, and not for noise."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 5, 3), function
        for parameter in self.conv.parameters():
            parameter.data.abs_()

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


def logarithm(function: Any) -> None:
    written(Log(function), examples=IMAGES.abs(), normalization="centered")


def rows(path: Path, **form: Any) -> None:
    written(nn.Linear(4, 2), examples=torch.randn(2, 4), **form)


def packed(path: Path, **settings: Any) -> None:
    written(Net(), "w4a4", first_last_bits=4, **settings)


WAYS: dict[str, Way] = {
    "logarithms of what noise makes negative": Way(
        lambda path: logarithm(torch.log),
        "clamp the operand of a float operation",
        lambda path: [
            logarithm(lambda y: torch.log(y.clamp(min=1e-3))),
            logarithm(lambda y: torch.log1p(torch.relu(y))),
        ],
    ),
    "a tensor that no machine holds": Way(
        lambda path: written(of_copies(2**24)),
        "compute that part otherwise",
        lambda path: written(of_copies(2)),
    ),
    "pixels for another normalization": Way(
        lambda path: written(Net(), input="uint8"),
        "8-bit input codes are the raw pixels",
        lambda path: [
            takes(written(Net(), normalization="imagenet", input="uint8"), onnx.TensorProto.UINT8),
            takes(written(Net(), input="float32"), onnx.TensorProto.FLOAT),
        ],
    ),
    "a size that decides a sum": Way(
        lambda path: of_similarities(path, dynamic_size=True),
        "height and width cannot stay open",
        lambda path: of_similarities(path, dynamic_size=False),
    ),
    "sizes of what is no image": Way(
        lambda path: rows(path, dynamic_size=True),
        "only in networks whose one input is images",
        lambda path: rows(path, dynamic_size=False),
    ),
    "signs that do not fit packed codes": Way(
        lambda path: packed(path, weights="packed", weight_range="full"),
        "has codes beyond its packed type",
        lambda path: [
            packed(path, weights="packed", weight_range="safe"),
            packed(path, weights="int8", weight_range="full"),
        ],
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)

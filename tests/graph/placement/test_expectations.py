"""Means of distributions behind the last layers are computed in float, as a part of the tail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.prepared import PreparedModel

IMAGES = noise(2, 3, 16, 16)
BINS = 8


class Distances(nn.Module):
    """Four distributions over bins at each place; ``end`` makes the answer of their shares."""

    def __init__(self, mean: nn.Module, end: Callable[[Distances, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4 * BINS, 1)
        with torch.no_grad():
            self.head.weight *= 20
        self.mean, self.end, self.last = mean, end, nn.Conv1d(1, 4, 1)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32))

    bins: Tensor

    def forward(self, x: Tensor) -> Any:
        maps = self.head(torch.relu(self.stem(x))).flatten(2)
        return self.end(self, maps), maps


def of_images(n: Distances, maps: Tensor) -> Tensor:
    batch, _, places = maps.shape
    return n.mean(maps.view(batch, 4, BINS, places).transpose(2, 1).softmax(1)).view(batch, 4, places)


def of_rows(n: Distances, maps: Tensor) -> Tensor:
    return n.mean(maps[:, :BINS].softmax(1)) * 8.0


def shares(maps: Tensor) -> Tensor:
    return maps.view(-1, 4, BINS, maps.shape[2]).softmax(2)


def of_sums(n: Distances, maps: Tensor) -> Tensor:
    return (shares(maps) * n.bins.view(1, 1, -1, 1)).sum(2)


def of_sums_at_the_end(n: Distances, maps: Tensor) -> Tensor:
    return (n.bins * maps.view(-1, 4, BINS, maps.shape[2]).mT.softmax(-1)).sum(-1, keepdim=True)


def of_products(n: Distances, maps: Tensor) -> Tensor:
    return shares(maps).mT @ n.bins


def of_features(n: Distances, maps: Tensor) -> Tensor:
    return n.mean(shares(maps).mT)


def of_functions(n: Distances, maps: Tensor) -> Tensor:
    return F.linear(shares(maps).mT, n.bins[None]) + F.conv2d(shares(maps).transpose(1, 2), n.bins.view(1, -1, 1, 1)).mT


def of_other_sums(n: Distances, maps: Tensor) -> Tensor:
    return (shares(maps) * n.bins.view(1, 1, -1, 1)).sum(1)


def of_averages(n: Distances, maps: Tensor) -> Tensor:
    return (shares(maps) * n.bins.view(1, 1, -1, 1)).mean(2)


def read_by_a_layer(n: Distances, maps: Tensor) -> Tensor:
    return n.last(n.mean(maps[:, :BINS].softmax(1)))


def numbers(layer: nn.Module, trained: bool) -> nn.Module:
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(torch.arange(BINS, dtype=torch.float32).view_as(weight))
    return layer.requires_grad_(trained)


def image_mean(trained: bool = False) -> nn.Module:
    return numbers(nn.Conv2d(BINS, 1, 1, bias=False), trained)


def row_mean(trained: bool = False) -> nn.Module:
    return numbers(nn.Conv1d(BINS, 1, 1, bias=False), trained)


def ready(network: nn.Module, bits: str = "w8a8") -> PreparedModel:
    model = qkd.prepare(network, bits, (IMAGES,))
    qkd.initialize(model, IMAGES)
    return model.eval()


def layers(model: PreparedModel) -> set[str]:
    return {str(node.target) for node in model.layers()}


CASES: dict[str, Callable[[], Distances]] = {
    "images": lambda: Distances(image_mean(), of_images),
    "rows": lambda: Distances(row_mean(), of_rows),
    "trained": lambda: Distances(row_mean(trained=True), of_rows),
    "sums": lambda: Distances(nn.Identity(), of_sums),
    "sums at the end": lambda: Distances(nn.Identity(), of_sums_at_the_end),
    "products": lambda: Distances(nn.Identity(), of_products),
    "features": lambda: Distances(numbers(nn.Linear(BINS, 1, bias=False), False), of_features),
    "functions": lambda: Distances(nn.Identity(), of_functions),
}
"""Ways to write a mean of bins."""


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("case", CASES)
def test_means_are_those_of_the_maps(case: str, bits: str, tmp_path: Path) -> None:
    network = CASES[case]().eval()
    model = ready(network, bits)
    assert layers(model) == {"stem", "head"}
    with torch.no_grad():
        found, maps = model(IMAGES)
        expected = network.end(network, maps)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    qkd.export_onnx(model, tmp_path / "m.onnx", tail="inside")
    for images in (1, 2, 5):
        inputs = noise(images, 3, 16, 16).numpy()
        report = qkd.verify_onnx(
            tmp_path / "m.onnx", inputs=inputs, frozen=qkd.freeze(model), prepared=model, require_integer=True
        )
        assert report.passed and {"Softmax", "ReduceSum"} <= {kernel.op for kernel in report.tail}, report.verdict


def test_numbers_that_are_trained_are_trained() -> None:
    model = ready(CASES["trained"]()).train()
    model(IMAGES)[0].sum().backward()
    gradient = model.get_parameter("network.mean.weight").grad
    assert gradient is not None and bool(gradient.abs().sum() > 0)


def with_bias() -> nn.Module:
    return nn.Conv1d(BINS, 1, 1)


def two_channels() -> nn.Module:
    return nn.Conv1d(BINS, 2, 1, bias=False)


def wide() -> nn.Module:
    return nn.Conv1d(BINS, 1, 3, bias=False)


@pytest.mark.parametrize("make", [with_bias, two_channels, wide])
def test_other_layers_stay_layers(make: Callable[[], nn.Module]) -> None:
    assert layers(ready(Distances(make(), of_rows).eval())) == {"stem", "head", "mean"}


@pytest.mark.parametrize("end", [of_other_sums, of_averages])
def test_other_sums_stay_in_integers(end: Callable[[Distances, Tensor], Tensor]) -> None:
    """Along another dimension, or of other size: integers average them."""
    model = ready(Distances(nn.Identity(), end).eval())
    kinds = {node.kind for node in model.graph.nodes}
    assert "global_avg_pool" in kinds and "expectation" not in kinds


def test_a_mean_that_a_layer_reads_is_a_layer() -> None:
    assert layers(ready(Distances(row_mean(), read_by_a_layer).eval())) == {"stem", "head", "mean", "last"}

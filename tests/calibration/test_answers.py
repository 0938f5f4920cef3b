"""Answers that no integer kernel reads keep their extremes; hidden tensors are clipped as least squares would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qkd_deploy as qkd
from qkd_deploy.calibration.answers import answers_of
from qkd_deploy.graph.prepared import PreparedModel

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Map(nn.Module):
    """Two convolutions; ``end`` makes the answer of both."""

    def __init__(self, end: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.end = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), end

    def forward(self, x: Tensor) -> Any:
        hidden = F.relu(self.a(x))
        return self.end(hidden, self.b(hidden))


ENDS: dict[str, tuple[Callable[[Tensor, Tensor], Any], set[str]]] = {
    "a convolution": (lambda hidden, y: y, {"b"}),
    "moved": (lambda hidden, y: F.pixel_shuffle(y, 2), {"b"}),
    "a tail in float": (lambda hidden, y: torch.cat([y.sigmoid(), y * 640], 1), {"b"}),
    "a hidden tensor too": (lambda hidden, y: (hidden, y.roll(3, 3)), {"b"}),
    "a sum": (lambda hidden, y: hidden + y, {"add"}),
}


def ready(name: str, bits: str = "w8a8", method: str = "auto") -> PreparedModel:
    model = qkd.prepare(Map(ENDS[name][0]).eval(), bits, (IMAGES,))
    qkd.initialize(model, IMAGES, method=method)
    return model.eval()


@pytest.mark.parametrize("bits", ["w8a8", "w2a2"])
@pytest.mark.parametrize("name", ENDS)
def test_what_no_integer_kernel_reads_is_an_answer(name: str, bits: str) -> None:
    assert answers_of(ready(name, bits)) == ENDS[name][1]


def largest_error(model: PreparedModel, network: nn.Module) -> float:
    with torch.no_grad():
        expected = network(IMAGES)
        return float((model(IMAGES) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("method", ["auto", "mse"])
def test_the_extremes_of_an_answer_are_kept_and_hidden_tensors_are_clipped(method: str) -> None:
    found, whole = ready("moved", method=method), ready("moved", method="minmax")
    starts = [
        {key: float(model.activation(key).state_dict()["step.start"]) for key in "ab"} for model in (found, whole)
    ]
    assert starts[0]["b"] == pytest.approx(starts[1]["b"], rel=0.02) and starts[0]["a"] < 0.95 * starts[1]["a"]
    assert largest_error(found, Map(ENDS["moved"][0]).eval()) < 0.05


def test_other_methods_are_taken_at_their_word() -> None:
    steps = {
        method: ready("moved", method=method).activation("b").state_dict()["step.start"] for method in ("lsq", "auto")
    }
    assert steps["lsq"] != steps["auto"]


@pytest.mark.parametrize("images", [1, 2])
def test_calibration_keeps_them_over_all_batches(images: int) -> None:
    """The largest value of any batch is inside the grid, with or without corrected outputs."""
    network = Map(ENDS["a convolution"][0]).eval()
    for correction in (True, False):
        model = qkd.prepare(network, "w8a8", (IMAGES,))
        qkd.calibrate(model, list(IMAGES.split(images)), correction=correction)
        assert largest_error(model.eval(), network) < 0.05
